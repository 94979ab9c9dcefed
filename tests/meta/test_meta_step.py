"""One move of level 4: what is not finite moves nothing, and a GPU gives the CPU's numbers."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from nested import MetaConfig, MetaOptimizer
from nested.meta.meta_step import MetaStep
from nested.support.device import find_device
from nested.tasks import Digits, Quadratics
from nested.tasks.stack import stack_batch, stack_init
from tests.problems import available, copies, generator

CONFIG = MetaConfig(meta_steps=6, unroll_length=3, max_horizon=9, tasks=4)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def numbers(rule):
    return torch.cat([p.detach().cpu().flatten() for p in rule.parameters()])


def inputs(rule, family=None, tasks=4, steps=3, seed=0):
    """(loss_fn, params, state, batches, query) of T tasks."""
    g, family = generator(seed), family or Quadratics()
    drawn = [family.sample(g) for _ in range(tasks)]
    params = stack_init(drawn, g)
    batches = [stack_batch(drawn, g) for _ in range(steps)]
    query = stack_batch(drawn, g, "query")
    return drawn[0].loss, params, torch.vmap(rule.init)(params), batches, query


def test_what_is_not_finite_moves_nothing():
    rule = MetaOptimizer()
    step = MetaStep(rule, CONFIG)
    loss_fn, params, state, batches, query = inputs(rule)
    step(loss_fn, params, state, batches, query)
    before, kept = numbers(rule), copies(step.optimizer.state_dict()["state"])
    spoiled = tree_map(lambda x: x * float("inf"), query)
    moved = step(loss_fn, params, state, batches, spoiled)
    assert not torch.isfinite(moved.loss)
    assert torch.equal(numbers(rule), before)
    for old, new in zip(tree_leaves(kept), tree_leaves(step.optimizer.state_dict()["state"])):
        assert torch.equal(old, new)


def test_a_loss_that_is_not_finite_is_no_move_even_with_a_zero_hypergradient(monkeypatch):
    rule = MetaOptimizer()
    step = MetaStep(rule, CONFIG)
    before = numbers(rule)
    dead = torch.tensor(float("nan")) + sum((0 * p).sum() for p in step.learned)
    monkeypatch.setattr("nested.meta.meta_step.meta_loss", lambda *args: dead)
    step(*inputs(rule))
    assert torch.equal(numbers(rule), before)


def test_a_hypergradient_that_is_not_finite_moves_nothing_though_the_loss_is():
    rule = MetaOptimizer()
    rule.net[0].weight.register_hook(lambda grad: grad * float("nan"))
    step, before = MetaStep(rule, CONFIG), numbers(rule)
    moved = step(*inputs(rule))
    assert torch.isfinite(moved.loss) and not torch.isfinite(moved.norm)
    assert torch.equal(numbers(rule), before)


@pytest.mark.parametrize("backend", available("eager", "checkpoint", "compile"))
@needs_gpu
def test_on_a_gpu_the_numbers_are_the_cpus(backend):
    config, left = MetaConfig(**{**vars(CONFIG), "backend": backend}), []
    for device in ("cpu", "cuda"):
        find_device(device)
        rule = MetaOptimizer().to(device)
        step = MetaStep(rule, config)
        moved = step(*inputs(rule, Digits(device=device)))
        left.append([*tree_leaves(moved), numbers(rule)])
    for cpu, cuda in zip(*left, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-4, atol=1e-4 * cpu.abs().max().item())
