"""Strategies: their contract, their formulas against brute force, and fine-tuning when off."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from nested.conformance import STRATEGY_CHECKS, ConformanceError, check_strategy
from nested.continual import STRATEGIES, Strategy, labelled, make_stream, run
from nested.continual.ewc import EWC, fisher_diagonal
from nested.continual.gem import AveragedGem
from nested.continual.nested_weights import NestedWeights
from nested.continual.nets import build_net
from nested.continual.reservoir import Reservoir
from nested.continual.synapses import Synapses
from tests.problems import generator


def small_stream(kind="class", scale=2, **more):
    source = generator()
    y = torch.arange(400) % 4
    x = scale * torch.eye(4)[y] + 0.5 * torch.randn(400, 4, generator=source)
    return make_stream(labelled(x, y), kind, 2, **more)


def net(seed=0):
    return build_net((4,), 4, width=8, seed=seed)


def weights(strategy):
    return torch.cat([w.detach().flatten() for w in strategy.net.parameters()])


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_the_contract(name):
    def make(net, budget, seed):
        return STRATEGIES[name](net, budget=budget, seed=seed)

    if name != "joint":
        check_strategy(make)
        return
    with pytest.raises(ConformanceError) as error:
        check_strategy(make)
    (fault,) = str(error.value).splitlines()[1:]
    assert "it keeps to its budget: it may store 2000 numbers, and stores 4212" in fault


OFF = {
    "ewc": {"strength": 0.0},
    "si": {"strength": 0.0},
    "lwf": {"strength": 0.0},
    "a-gem": {"budget": 0},
    "replay": {"budget": 0},
    "der++": {"budget": 0},
    "layers": {"period": 1},
    "continuum": {"periods": ()},
    "nested": {"periods": (), "budget": 0},
    "one copy": {"periods": (), "budget": 0},
}


@pytest.mark.parametrize("name", OFF)
def test_off_it_is_fine_tuning_bit_for_bit(name):
    stream = small_stream()
    plain = Strategy(net(), lr=0.1)
    off = STRATEGIES[name](net(), lr=0.1, **OFF[name])
    expected, result = run(plain, stream), run(off, stream)
    assert weights(plain).equal(weights(off)) and expected.matrix.equal(result.matrix)
    assert not weights(plain).equal(weights(Strategy(net())))


def test_fishers_diagonal_is_the_mean_of_squared_gradients_of_single_examples():
    model, source = net().double(), generator()
    x, y = torch.randn(100, 4, generator=source).double(), torch.arange(100) % 4
    fisher = fisher_diagonal(model, x, y, cross_entropy)
    expected = {name: torch.zeros_like(w) for name, w in model.named_parameters()}
    for i in range(100):
        grads = torch.autograd.grad(cross_entropy(model(x[[i]]), y[[i]]), model.parameters())
        for name, grad in zip(expected, grads):
            expected[name] += grad**2 / 100
    for name, part in fisher.items():
        assert torch.allclose(part, expected[name], rtol=1e-9, atol=1e-15)
    mean = torch.autograd.grad(cross_entropy(model(x), y), model.parameters())
    assert not torch.allclose(fisher["head.bias"], mean[-1] ** 2)  # the square of a mean


def test_fishers_pass_moves_no_running_statistics():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    before = copy.deepcopy(model.state_dict())
    fisher_diagonal(model.train(), torch.randn(20, 4), torch.arange(20) % 4, cross_entropy)
    assert all(before[name].equal(part) for name, part in model.state_dict().items())
    assert model.training


def test_the_penalty_of_ewc_is_above_0_after_a_step_of_the_second_task():
    strategy, stream = EWC(net(), strength=100.0, budget=10_000), small_stream()
    for x, y in stream.batches(0):
        strategy.observe(x, y)
    strategy.end_task(0)
    assert strategy.penalty().item() == 0.0
    x, y = next(stream.batches(1))
    strategy.observe(x, y)
    w, anchor = dict(strategy.net.named_parameters()), strategy.anchor
    by_hand = sum((50.0 * strategy.fisher[n] * (w[n] - anchor[n]) ** 2).sum() for n in anchor)
    assert strategy.penalty().item() == pytest.approx(by_hand.item(), rel=1e-5) and by_hand > 0


def test_the_importance_of_synapses_is_their_share_of_the_loss():
    """On a quadratic bowl in small steps, minus the sum of gradient times move is the fall."""
    strategy = Synapses(net(), lr=1e-3, strength=0.0)
    x, y = next(small_stream().batches(0))
    losses = [strategy.observe(x, y) for _ in range(200)]
    gained = sum(part.sum() for part in strategy.gain.values()).item()
    assert gained == pytest.approx(losses[0] - losses[-1], rel=0.05) and gained > 0.01


def test_a_projected_gradient_no_longer_points_against_the_past():
    stream = small_stream()
    strategy = AveragedGem(net(), budget=10_000, rehearsed=1000)
    for x, y in stream.batches(0):
        strategy.observe(x, y)
    x, y = next(stream.batches(1))
    model = strategy.net
    before = [w.detach().clone() for w in model.parameters()]
    old_x, old_y, _ = strategy.memory.all()
    past = torch.autograd.grad(cross_entropy(model(old_x), old_y), model.parameters())
    new = torch.autograd.grad(cross_entropy(model(x), y), model.parameters())
    assert sum((a * b).sum() for a, b in zip(past, new)) < 0  # they conflict
    strategy.observe(x, y)
    moved = [a - w.detach() for a, w in zip(before, model.parameters())]
    assert sum((a * b).sum() for a, b in zip(past, moved)).item() == pytest.approx(0, abs=1e-5)


def test_a_reservoir_is_uniform():
    """Chi-squared over 2,000 streams of 40 examples into 10 slots: 39 degrees of freedom."""
    source, kept = generator(), torch.zeros(40)
    for _ in range(2000):
        memory = Reservoir(10)
        for part in torch.arange(40).split(7):
            memory.add(source, part)
        (rows,) = memory.all()
        assert len(rows.unique()) == 10
        kept[rows] += 1
    expected = 2000 * 10 / 40
    # counts of draws without replacement vary less than Poisson's, by the factor 1 - 10 / 40
    chi = ((kept - expected) ** 2 / (expected * (1 - 10 / 40))).sum() * 39 / 40
    assert chi < 72.1  # the 99.9 % point


def test_copies_follow_the_level_before_them_at_their_clocks():
    strategy = NestedWeights(net(), periods=(1, 3), share=0.25, budget=1000)
    fast, (first, second) = strategy.net, copy.deepcopy(strategy.copies)
    for number, (x, y) in enumerate(list(small_stream().batches(0))[:7], start=1):
        strategy.observe(x, y)
        for name, weight in fast.named_parameters():
            first[name] += 0.25 * (weight.detach() - first[name])
            if number % 3 == 0:
                second[name] += 0.25 * (first[name] - second[name])
            assert torch.allclose(strategy.copies[0][name], first[name], atol=1e-6)
            assert torch.allclose(strategy.copies[1][name], second[name], atol=1e-6)
    assert strategy.moves == {"weights": 7, "copy 1": 7, "slow copy": 2}


def test_fast_weights_are_held_to_the_logits_of_the_slowest_copy():
    strategy = NestedWeights(net(), periods=(1, 1), held=0.7, budget=1000)
    source = generator()
    for part in strategy.copies[1].values():
        part.add_(0.3 * torch.randn(part.shape, generator=source))
    x, _ = next(small_stream().batches(0))
    logits = strategy.net(x)
    known = torch.func.functional_call(strategy.net, strategy.copies[1], (x,))
    by_hand = 0.7 * ((logits - known) ** 2).mean()
    assert strategy.regularised(x, logits).item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert strategy.logits(x).equal(known.detach())


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n not in ("joint", "si")])
def test_nobody_stores_more_than_the_budget(name):
    model = net()
    count = sum(w.numel() for w in model.parameters())
    budget = 2 * count + 100
    strategy = STRATEGIES[name](model, budget=budget)
    assert run(strategy, small_stream()).numbers <= budget


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_killed_run_resumes_to_the_same_matrix(name, tmp_path):
    stream, path = small_stream(), tmp_path / "run.pt"

    def make():
        return STRATEGIES[name](net(), budget=1000)

    whole = run(make(), stream)

    class Killed(Exception):
        pass

    def kill(task):
        raise Killed

    with pytest.raises(Killed):
        run(make(), stream, checkpoint=path, show=kill)
    seen = []
    again = run(make(), stream, checkpoint=path, show=seen.append)
    assert again.matrix.equal(whole.matrix) and again.moves == whole.moves and seen == [1]
    assert again.numbers == whole.numbers


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    run(Strategy(net()), small_stream(), checkpoint=path)
    others = {
        "strategy": lambda: run(STRATEGIES["ewc"](net()), small_stream(), checkpoint=path),
        "rate": lambda: run(Strategy(net(), lr=0.2), small_stream(), checkpoint=path),
        "stream": lambda: run(Strategy(net()), small_stream(seed=1), checkpoint=path),
        "kind": lambda: run(Strategy(net()), small_stream("task"), checkpoint=path),
        "passes": lambda: run(Strategy(net()), small_stream(), epochs=2, checkpoint=path),
        "net": lambda: run(Strategy(net(1)), small_stream(), checkpoint=path),
        "data": lambda: run(Strategy(net()), small_stream(scale=2.1), checkpoint=path),
        "width": lambda: run(
            Strategy(build_net((4,), 4, width=9)), small_stream(), checkpoint=path
        ),
    }
    for wrong in others.values():
        with pytest.raises(ValueError, match="is no run of this strategy with these settings"):
            wrong()
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        run(Strategy(net()), small_stream(), checkpoint=path)


@pytest.mark.parametrize(
    "name, first, other",
    [
        ("meta-learned", {"scale": 1.0}, {"scale": 0.3}),
        ("nested", {"periods": (1, 4)}, {"periods": (2, 8)}),
        ("replay", {"seed": 0}, {"seed": 3}),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(name, first, other, tmp_path):
    path = tmp_path / "run.pt"
    run(STRATEGIES[name](net(), budget=1000, **first), small_stream(), checkpoint=path)
    run(STRATEGIES[name](net(), budget=1000, **first), small_stream(), checkpoint=path)
    with pytest.raises(ValueError, match="is no run of this strategy with these settings"):
        run(STRATEGIES[name](net(), budget=1000, **other), small_stream(), checkpoint=path)


@pytest.mark.parametrize("name", ["joint", "replay", "der++", "nested"])
def test_more_passes_store_no_example_twice(name):
    stream = small_stream()
    once = run(STRATEGIES[name](net(), budget=10_000), stream)
    strategy = STRATEGIES[name](net(), budget=10_000)
    again = run(strategy, stream, epochs=3)
    assert again.numbers == once.numbers
    assert name == "joint" or again.moves["weights"][-1] == 3 * once.moves["weights"][-1]
    kept = (
        torch.cat([x for x, *_ in strategy.seen]) if name == "joint" else strategy.memory.all()[0]
    )
    assert len(kept) == len(kept.unique(dim=0)) == 320


def test_without_examples_copies_hold_the_weights_all_the_same():
    ends = []
    for held in (1.5, 0.0):
        strategy = NestedWeights(net(), budget=0, held=held)
        run(strategy, small_stream())
        ends.append(weights(strategy))
    start = weights(NestedWeights(net()))
    assert (ends[0] - start).norm() < 0.9 * (ends[1] - start).norm()


def test_a_strategy_may_have_the_six_methods_alone():
    class Mine:
        def __init__(self):
            self.inner = Strategy(net())

        def __getattr__(self, name):
            if name in ("observe", "end_task", "logits", "numbers_stored"):
                return getattr(self.inner, name)
            raise AttributeError(name)

        def state_dict(self):
            return self.inner.state_dict()

    stream = small_stream()
    assert run(Mine(), stream).matrix.equal(run(Strategy(net()), stream).matrix)


def test_learners_who_know_the_task_choose_among_its_classes_from_the_start():
    result = run(Strategy(net()), small_stream("task"))
    assert result.untrained.min() > 0.2 and result.matrix[0, 1] > 0.2  # two classes each


def test_examples_that_are_dropped_after_a_task_count_as_stored():
    strategy = STRATEGIES["ewc"](net(), budget=1000)
    result = run(strategy, small_stream())
    assert strategy.numbers_stored() < 500 < result.numbers <= 1000


def test_gradients_that_wait_count_as_stored():
    strategy = STRATEGIES["layers"](net(), period=4)
    assert strategy.numbers_stored() == sum(w.numel() for w in strategy.net.slow.parameters()) > 0
    strategy = STRATEGIES["continuum"](net(), periods=(1, 4), hidden=3, budget=10_000)
    one = 8 * 3 + 3 + 3 * 8 + 8
    assert strategy.numbers_stored() == 3 * one  # two small nets, and one sum


def test_layers_move_by_the_sum_of_the_gradients_since():
    strategy, plain = STRATEGIES["layers"](net(), lr=0.1, period=4), net()
    total = {name: torch.zeros_like(w) for name, w in plain.slow.named_parameters()}
    for x, y in list(small_stream().batches(0))[:4]:
        model = copy.deepcopy(strategy.net)
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        total = {name: total[name] + w.grad for name, w in model.slow.named_parameters()}
        strategy.observe(x, y)
    for name, w in strategy.net.slow.named_parameters():
        wanted = plain.slow.get_parameter(name) - 0.1 * total[name]
        assert torch.allclose(w, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["lwf", "nested", "meta-learned"])
def test_answers_of_copies_move_no_running_statistics(name):
    def statistics(strategy, x, y):
        strategy.observe(x, y)
        strategy.end_task(0)
        strategy.observe(x, y)
        strategy.logits(x)
        return strategy.net[1].running_mean

    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)))
    x, y = torch.randn(10, 4, generator=generator()), torch.arange(10) % 4
    kind = STRATEGIES[name]
    more = {"scale": 0.0} if name == "meta-learned" else {"lr": 0.0}
    ours = statistics(kind(nets[0], budget=0, **more), x, y)
    assert nets[0][1].num_batches_tracked == 2
    passes = nets[1][0](x).mean(0).detach()  # both batches pass with the first weights
    wanted = 0.1 * passes + 0.9 * 0.1 * passes
    assert torch.allclose(ours, wanted, atol=1e-4)


def test_a_state_moves_to_the_device_of_the_net():
    stream = small_stream()
    for name in STRATEGIES:
        strategy = STRATEGIES[name](net(), budget=1000)
        x, y = next(stream.batches(0))
        strategy.observe(x, y)
        strategy.end_task(0)
        strategy.observe(x, y)
        other = STRATEGIES[name](net().to("meta"), budget=1000)
        other.load_state_dict(strategy.state_dict())
        rest = {n: part for n, part in other.state_dict().items() if n != "generator"}
        tensors = [leaf for leaf in tree_leaves(rest) if isinstance(leaf, torch.Tensor)]
        assert tensors and {leaf.device.type for leaf in tensors} == {"meta"}, name


def test_a_reservoir_takes_no_more_room_than_its_examples_need():
    memory = Reservoir(10**15)
    for batch in torch.arange(3000.0).view(-1, 10, 3).unbind():
        memory.add(generator(), batch)
    (kept,) = memory.all()
    assert len(memory) == 1000 and kept.equal(torch.arange(3000.0).view(-1, 3))


def test_a_known_task_helps():
    """Told the task, fine-tuning keeps the first one; without, it answers only the last."""
    shares = {}
    for kind in ("class", "task"):
        shares[kind] = run(Strategy(net()), small_stream(kind)).matrix[1, 0].item()
    assert shares["task"] > shares["class"] + 0.3


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lr": -1.0}, "lr is a finite number from 0"),
        ({"lr": float("nan")}, "lr is a finite number"),
        ({"budget": -1}, "budget is a whole number from 0"),
        ({"name": "joint", "passes": 0}, "passes is a whole number from 1"),
        ({"name": "meta-learned", "scale": float("nan")}, "scale is a finite number from 0"),
        ({"name": "nested", "share": 3.0}, "share is a share from 0 to 1"),
        ({"name": "ewc", "decay": 5.0}, "decay is a share from 0 to 1"),
        ({"name": "replay", "weight": -0.1}, "weight is a share from 0 to 1"),
        ({"name": "continuum", "hidden": -3}, "hidden is a finite number from 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        name = settings.get("name", "fine-tuning")
        STRATEGIES[name](net(), **{n: value for n, value in settings.items() if n != "name"})


def test_numbers_of_numpy_are_numbers():
    assert Strategy(net(), lr=np.float64(0.25)).optimizer.param_groups[0]["lr"] == 0.25


def test_labels_without_an_output_and_other_precisions_are_refused():
    for name in STRATEGIES:
        strategy = STRATEGIES[name](net(), budget=1000)
        x = torch.randn(3, 4)
        with pytest.raises(ValueError, match="labels are below 4, the outputs of the net: got 9"):
            strategy.observe(x, torch.tensor([0, 9, 1]), 0)
        assert strategy.logits(x, 0).argmax(-1).max() <= 1  # the refused label has left no trace
        with pytest.raises(ValueError, match="labels are whole numbers from 0, but got -1"):
            strategy.observe(x, torch.tensor([0, -1, 1]))
    with pytest.raises(ValueError, match="precision is one of float32, bfloat16, but got 'float16"):
        run(Strategy(net()), small_stream(), precision="float16")


def test_checks_find_wrong_strategies():
    """Each wrong strategy fails the check that is meant for it."""

    class Forgetful(Strategy):
        saved = Strategy.saved[1:]

    class Learning(Strategy):
        def logits(self, x, task=None):
            with torch.enable_grad():
                self.observe(x, super().logits(x).argmax(-1))
            return super().logits(x, task)

    class Sharing(STRATEGIES["replay"]):
        def numbers_stored(self):
            return 0

    class Unseeded(STRATEGIES["replay"]):
        def loss(self, x, y, task):
            return super().loss(x + 0.1 * torch.randn_like(x), y, task)

    class Open(STRATEGIES["replay"]):
        def masked(self, logits, task):
            return logits

    class Under(STRATEGIES["replay"]):
        def numbers_stored(self):
            return int(0.95 * super().numbers_stored())

    class Hidden(Strategy):
        def after_step(self, x, y, task):
            for weight in self.net.parameters():
                self.optimizer.state[weight]["slow"] = weight.detach().clone()

    class Hasty(STRATEGIES["ewc"]):
        def end_task(self, task):
            self.sample.all()[0]
            super().end_task(task)

    class Careless(Strategy):
        def observe(self, x, y, task=None):
            self.optimizer.zero_grad()
            self.loss(x, y, task).backward()
            self.optimizer.step()

    class Idle(Strategy):
        def step(self):
            pass

    class Greedy(STRATEGIES["replay"]):
        def free_slots(self, x):
            return 10**6

    class Hiding(Strategy):
        saved = (*Strategy.saved, "bytes")

        def after_step(self, x, y, task):
            self.bytes = (100 * x).to(torch.uint8)

        def numbers_stored(self):
            return 0

    wrong = [
        ("it resumes bit for bit", Forgetful),
        ("answering changes nothing", Learning),
        ("it counts what it stores", Sharing),
        ("its seed decides everything", Unseeded),
        ("a known task masks other classes", Open),
        ("it refuses broken batches", Careless),
        ("it learns an easy task", Idle),
        ("it keeps to its budget", Greedy),
        ("it counts what it stores", Hiding),
        ("it counts what it stores", Under),
        ("it counts what it stores", Hidden),
        ("tasks and batches of any size", Hasty),
    ]
    checks = {check.name: check for check in STRATEGY_CHECKS}
    from nested.conformance.check import run_check

    for name, kind in wrong:

        def make(net, budget, seed):
            return kind(net, budget=budget, seed=seed)

        assert not run_check(checks[name], make).verdict.passed, name
