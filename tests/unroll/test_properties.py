"""What holds for every unroll, whatever is drawn."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from nested import unroll, unroll_tasks
from tests.problems import copies, everything, learned_rule, problem, repeat_tasks, state_with

drawn = settings(max_examples=15, deadline=None)
seeds, lengths = st.integers(0, 1000), st.integers(1, 6)


@drawn
@given(seeds, lengths, st.sampled_from(["eager", "higher"]), st.booleans())
def test_inputs_are_never_changed(seed, steps, backend, differentiable):
    rule = learned_rule(seed)
    loss_fn, params, batches, momentum = problem(steps, seed=seed)
    given_ = params, batches, state_with(rule, params, momentum), dict(rule.named_parameters())
    before = copies(given_)
    how = {"backend": backend, "differentiable": differentiable}
    unroll(loss_fn, params, batches, rule, given_[2], **how)
    unroll_tasks(
        loss_fn,
        repeat_tasks(params),
        [repeat_tasks(b) for b in batches],
        rule,
        repeat_tasks(given_[2]),
        **how,
    )
    after, before = tree_leaves(given_), tree_leaves(before)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@drawn
@given(seeds, lengths, st.sampled_from(["eager", "higher"]))
def test_the_same_seed_gives_the_same_bits(seed, steps, backend):
    runs = []
    for _ in range(2):
        loss_fn, params, batches, _ = problem(steps, seed=seed)
        runs.append(
            everything(unroll(loss_fn, params, batches, learned_rule(seed), backend=backend))
        )
    assert torch.equal(*runs)


@drawn
@given(seeds, st.integers(2, 6), st.data())
def test_two_windows_are_one(seed, steps, data):
    cut = data.draw(st.integers(1, steps - 1))
    rule = learned_rule(seed)
    loss_fn, params, batches, _ = problem(steps, seed=seed)
    whole = unroll(loss_fn, params, batches, rule)
    first = unroll(loss_fn, params, batches[:cut], rule)
    rest = unroll(loss_fn, first.params, batches[cut:], rule, first.state)
    for name in params:
        torch.testing.assert_close(rest.params[name], whole.params[name], rtol=1e-12, atol=0)
