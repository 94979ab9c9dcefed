"""One move of level 4: the host may look at each number or none, and a GPU may replay a recording.

Without a GPU a stand-in records: it runs the function as often, and each replay fills the same
outputs anew.
"""

from contextlib import suppress

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from nested import MetaConfig, MetaOptimizer, meta_train
from nested.meta import meta_step
from nested.meta.meta_step import MetaStep
from nested.support import cuda_graph
from nested.support.device import find_device
from nested.tasks import Digits, Quadratics
from nested.tasks.stack import stack_batch, stack_init
from tests.problems import copies, generator

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


def train(monkeypatch, waits, family=None, records=False, **how):
    """Meta-train with every ``MetaStep`` as told."""
    usual = MetaStep.__init__

    def told(self, rule, config):
        usual(self, rule, config, waits=waits)
        self.records = records

    rule = MetaOptimizer()
    with monkeypatch.context() as patch:
        patch.setattr(MetaStep, "__init__", told)
        return rule, meta_train(rule, family or Quadratics(), CONFIG, **how)


class Steep(Quadratics):
    """Its third task overflows: one window of runs is not finite."""

    drawn = 0

    def sample(self, generator):
        self.drawn += 1
        task = super().sample(generator)
        return type(task)(
            task.family, task.curvature * (1e30 if self.drawn == 3 else 1.0), task.centre
        )


@pytest.fixture
def stand_in(monkeypatch):
    """Counts recordings."""
    recordings = []

    def record(function):
        for _ in range(cuda_graph.WARM_UPS):
            function()
        outputs = copies(function())  # while the rule is held

        def replay():
            for kept, new in zip(tree_leaves(outputs), tree_leaves(function()), strict=True):
                kept.copy_(new)

        recordings.append(replay)
        return replay, outputs

    monkeypatch.setattr(cuda_graph, "record", record)
    return recordings


def test_without_waiting_the_same_is_learned(monkeypatch):
    rules = []
    for waits in (True, False):
        rule, history = train(monkeypatch, waits, Steep())
        assert [record.skipped for record in history.records].count(True) == 1
        rules.append((numbers(rule), [r.meta_loss for r in history.records if not r.skipped]))
    torch.testing.assert_close(rules[1][0], rules[0][0], rtol=1e-5, atol=1e-6)
    assert rules[1][1] == pytest.approx(rules[0][1], rel=1e-4)


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_not_finite_moves_nothing(waits):
    rule = MetaOptimizer()
    step = MetaStep(rule, CONFIG, waits=waits)
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


@pytest.mark.parametrize("waits", [True, False])
def test_a_hypergradient_that_is_not_finite_moves_nothing_though_the_loss_is(waits):
    rule = MetaOptimizer()
    rule.net[0].weight.register_hook(lambda grad: grad * float("nan"))
    step, before = MetaStep(rule, CONFIG, waits=waits), numbers(rule)
    moved = step(*inputs(rule))
    assert torch.isfinite(moved.loss) and not torch.isfinite(moved.norm)
    assert torch.equal(numbers(rule), before)


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.5), (5.0, 1.0), (10.0, 1.0), (40.0, 0.25)])
def test_a_hypergradient_beyond_trust_counts_for_less_the_longer_it_is(before, after):
    rule = MetaOptimizer()
    step = MetaStep(rule, MetaConfig(**{**vars(CONFIG), "clip": 1.0, "trust": 10.0}))
    grads = [torch.randn(p.shape, generator=generator(i)) for i, p in enumerate(step.learned)]
    length = torch.cat([g.flatten() for g in grads]).norm()
    norm = step._clip(tuple(g * before / length for g in grads))
    assert norm.item() == pytest.approx(before, rel=1e-5)
    kept = torch.cat([p.grad.flatten() for p in step.learned]).norm().item()
    assert kept == pytest.approx(after, rel=1e-4)


def test_a_recording_reads_its_rate_anew_and_leaves_its_inputs_alone(stand_in):
    rule = MetaOptimizer()
    step = MetaStep(rule, CONFIG, waits=False)
    step.records, rate = True, step.optimizer.param_groups[0]["lr"]
    first = inputs(rule, seed=1)
    before = copies(first[1:])
    step(*first)
    step.set_rate(0.5)
    step(*inputs(rule, seed=2))
    assert step.optimizer.param_groups[0]["lr"] is rate and rate == 0.5
    for old, new in zip(tree_leaves(before), tree_leaves(first[1:]), strict=True):
        assert torch.equal(old, new)


def test_a_recording_learns_the_same_from_changing_inputs(monkeypatch, stand_in):
    plain, history = train(monkeypatch, waits=False)
    recorded, replayed = train(monkeypatch, waits=False, records=True)
    assert len(stand_in) == 1
    assert torch.equal(numbers(recorded), numbers(plain))
    assert replayed == history


@pytest.mark.parametrize("first", [True, False])
def test_a_run_can_change_devices_when_it_is_resumed(tmp_path, monkeypatch, first):
    whole, history = train(monkeypatch, waits=True)
    path, resumed = tmp_path / "rule.pt", None

    def stop_half_way(seen):
        if len(seen.records) == 4:
            raise KeyboardInterrupt

    for waits, on_step in ((first, stop_half_way), (not first, None)):
        how = {"checkpoint": path, "resume": True, "on_step": on_step}
        with suppress(KeyboardInterrupt):
            rule, resumed = train(monkeypatch, waits, **how)
    assert [r.inner_step for r in resumed.records] == [r.inner_step for r in history.records]
    torch.testing.assert_close(numbers(rule), numbers(whole), rtol=1e-5, atol=1e-6)


def test_other_shapes_are_recorded_anew_and_results_are_kept(stand_in):
    rule = MetaOptimizer()
    step = MetaStep(rule, CONFIG, waits=False)
    step.records = True
    first = step(*inputs(rule, seed=1))
    seen = copies(first)
    step(*inputs(rule, seed=2))
    assert len(stand_in) == 1
    for old, new in zip(tree_leaves(seen), tree_leaves(first), strict=True):
        assert torch.equal(old, new)  # not written over by the replay
    step(*inputs(rule, tasks=2))
    assert len(stand_in) == 2


def test_each_loss_has_a_recording_of_its_own(stand_in):
    """Two families of equal shapes: what is replayed is the loss at hand, as without recording."""
    families = [Digits(hidden=4), Digits(hidden=4, activation=torch.nn.Sigmoid)]
    losses = {}
    for records in (False, True):
        step = MetaStep(MetaOptimizer(), CONFIG, waits=False)
        step.records = records
        found = [step(*inputs(step.rule, families[i % 2], seed=i)).loss.item() for i in range(6)]
        losses[records] = torch.tensor(found)
    assert len(stand_in) == 2
    assert torch.allclose(losses[True], losses[False], rtol=1e-4)


def test_what_cannot_be_recorded_is_launched_step_by_step(monkeypatch):
    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    plain, _ = train(monkeypatch, waits=False)
    monkeypatch.setattr(cuda_graph, "record", refuse)
    with pytest.warns(UserWarning, match="no CUDA graph, so every step is launched") as warned:
        launched, _ = train(monkeypatch, waits=False, records=True)
    assert len(warned) == 1
    assert torch.equal(numbers(launched), numbers(plain))


def test_nothing_is_being_recorded_here():
    assert cuda_graph.is_recording() is False


@pytest.mark.parametrize("backend", ["eager", "checkpoint"])
@needs_gpu
def test_on_a_gpu_the_numbers_are_the_cpus(backend):
    config, left = MetaConfig(**{**vars(CONFIG), "backend": backend}), []
    for device in ("cpu", "cuda"):
        find_device(device)
        rule = MetaOptimizer().to(device)
        step = MetaStep(rule, config)
        moved = step(*inputs(rule, Digits(device=device)))
        assert (step.recorded is not None) == (device == "cuda" and backend == "eager")
        left.append([*tree_leaves(moved), numbers(rule)])
    for cpu, cuda in zip(*left, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-4, atol=1e-4 * cpu.abs().max().item())


@needs_gpu
def test_on_a_gpu_a_recording_learns_what_launched_steps_learn(monkeypatch):
    learned = []
    for records in (True, False):
        monkeypatch.setattr(meta_step, "RECORDABLE", ("eager",) if records else ())
        rule = MetaOptimizer().to("cuda")
        meta_train(rule, Digits(device="cuda"), CONFIG)
        learned.append(numbers(rule))
    torch.testing.assert_close(*learned, rtol=1e-4, atol=1e-5)
