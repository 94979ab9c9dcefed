"""The meta-loss scores every update, the last one included."""

import pytest
import torch

from nested import unroll_tasks
from nested.meta.objective import meta_loss, scored_losses
from nested.unroll.over_tasks import pick_task
from tests.problems import learned_rule, problem, repeat_tasks


def run(steps):
    rule = learned_rule()
    loss_fn, params, batches, _ = problem(steps + 1, requires_grad=False)
    batches = [repeat_tasks(b) for b in batches]
    trajectory = unroll_tasks(loss_fn, repeat_tasks(params), batches[:-1], rule)
    return rule, loss_fn, trajectory, batches[-1]


@pytest.mark.parametrize("objective", ["mean", "query"])
def test_one_step_has_a_hypergradient(objective):
    rule, loss_fn, trajectory, query = run(1)
    loss = meta_loss(loss_fn, trajectory, query, objective)
    grads = torch.autograd.grad(loss, list(rule.parameters()))
    assert all(g.abs().max() > 1e-6 for g in grads[2:])
    before = torch.autograd.grad(trajectory.losses.sum(), rule.net[2].bias, allow_unused=True)
    assert before == (None,), "the loss before the first update is no credit"


def test_it_is_the_loss_after_each_update():
    _, loss_fn, trajectory, query = run(4)
    scored = scored_losses(loss_fn, trajectory, query)
    assert scored.shape == (2, 4)
    assert torch.equal(scored[:, :3], trajectory.losses[:, 1:])
    one = loss_fn(pick_task(trajectory.params, 1), pick_task(query, 1))
    torch.testing.assert_close(scored[1, 3], one)
    torch.testing.assert_close(meta_loss(loss_fn, trajectory, query), scored.mean())
    torch.testing.assert_close(meta_loss(loss_fn, trajectory, query, "query"), scored[:, 3].mean())


def test_an_unknown_objective_is_refused():
    _, loss_fn, trajectory, query = run(1)
    with pytest.raises(ValueError, match="objective is one of"):
        meta_loss(loss_fn, trajectory, query, "sum")
