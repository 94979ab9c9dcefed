"""What every family promises: seeded draws, one shared loss, unseen queries, a disjoint sibling."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nested import unroll_tasks
from nested.rules import CoordinatewiseRule
from nested.tasks import FAMILIES
from nested.tasks.digits import DigitsTask
from nested.tasks.stack import stack_batch, stack_init
from tests.problems import generator


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return FAMILIES[request.param]()


def draw(family, seed):
    g = generator(seed)
    task = family.sample(g)
    return [task.init(g), task.batch(g), task.batch(g, "query")]


def test_the_same_seed_draws_the_same_task_and_another_seed_another(family):
    first, again, other = (tree_leaves(draw(family, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_same_seed_draws_other_tasks_on_the_held_out_side(family):
    ours, theirs = draw(family, 3)[1], draw(family.held_out(), 3)[1]
    assert not any(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(
        torch.equal(a, b)
        for a, b in zip(draw(family.held_out().held_out(), 3)[1], ours, strict=True)
    ), "the sibling of the held-out side stays held out"


@pytest.mark.parametrize("split", ["train", "query"])
def test_batches_drawn_together_are_those_drawn_one_by_one(family, split):
    tasks, together, one_by_one = [family.sample(generator(t)) for t in range(5)], *map(
        generator, (7, 7)
    )
    many = stack_batch(tasks, together, split)
    alone = [task.batch(one_by_one, split) for task in tasks]
    for part, parts in zip(many, zip(*alone), strict=True):
        assert torch.equal(part, torch.stack(parts))
    assert torch.equal(together.get_state(), one_by_one.get_state())


def test_tasks_of_two_families_draw_from_their_own():
    family, g = FAMILIES["digits"](), generator()
    tasks = [family.sample(g), family.held_out().sample(g)]
    many = stack_batch(tasks, generator(1))
    again = generator(1)
    for t, task in enumerate(tasks):
        assert all(map(torch.equal, [part[t] for part in many], task.batch(again)))


def test_a_subclass_with_its_own_batch_is_asked_for_it():
    class Dark(DigitsTask):
        def batch(self, generator, split="train"):
            images, labels = super().batch(generator, split)
            return 0 * images, labels

    family, g = FAMILIES["digits"](), generator()
    tasks = [
        Dark(t.family, t.relabelling, t.contrast) for t in (family.sample(g), family.sample(g))
    ]
    assert (stack_batch(tasks, g)[0] == 0).all()


def test_train_and_query_batches_differ_even_from_equal_generators(family):
    task = family.sample(generator(0))
    train, query = (task.batch(generator(1), split) for split in ("train", "query"))
    assert not all(torch.equal(a, b) for a, b in zip(train, query, strict=True))


def test_global_randomness_is_neither_used_nor_moved_by_draws(family):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(family, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_is_a_shared_scalar(family):
    g = generator()
    first, second = family.sample(g), family.sample(g)
    loss = first.loss(first.init(g), first.batch(g))
    assert loss.shape == () and torch.isfinite(loss) and first.loss == second.loss


def test_tasks_stack_and_learn_together(family):
    g = generator()
    tasks = [family.sample(g) for _ in range(3)]
    batches = [stack_batch(tasks, g) for _ in range(30)]
    rule = CoordinatewiseRule(progress=False)  # its steps have one size, however steep the loss
    run = unroll_tasks(tasks[0].loss, stack_init(tasks, g), batches, rule)
    assert run.losses.shape == (3, 30)
    assert run.losses[:, -5:].mean() < run.losses[:, :5].mean()


def test_an_unknown_split_is_refused(family):
    with pytest.raises(ValueError, match="split is one of .* but got 'test'"):
        family.sample(generator()).batch(generator(), "test")


def test_dtype_is_kept(family):
    wide = type(family)(dtype=torch.float64)
    params, batch, _ = draw(wide, 0)
    floats = [leaf for leaf in tree_leaves([params, batch]) if leaf.is_floating_point()]
    assert floats and all(leaf.dtype == torch.float64 for leaf in floats)
    assert wide.held_out().dtype == torch.float64
