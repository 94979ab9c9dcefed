"""What all memories share: where they are cut, how they start, and that they last."""

import math

import pytest
import torch

from nested.levels.detach import detached
from nested.memory import (
    ContinuumMemory,
    Gate,
    HardGate,
    LinearMemory,
    SelfModifyingTitans,
    TitansMemory,
    by_chunks,
    by_tokens,
)
from nested.memory.masks import piece_sizes
from nested.memory.net import damping, unit
from tests.memory.memories import MEMORIES, nudged
from tests.problems import generator


def weights(state):
    """Each matrix that a memory has now, by name."""
    memory = state["memory"]
    for number, level in enumerate(memory if isinstance(memory, tuple) else [memory]):
        for name, w in level.get("now", level).items():
            parts = w[0] if w.dim() == 4 else [w[0]]
            yield from ((f"{number} {name} {i}", part) for i, part in enumerate(parts))


@pytest.mark.parametrize("kind", ["random", "constant"])
@pytest.mark.parametrize("name", MEMORIES)
def test_32768_tokens_stay_bounded(name, kind):
    torch.manual_seed(0)
    memory, state, largest = MEMORIES[name](16, 64), None, []
    x = torch.randn(1, 32768, 16, generator=generator())
    x = x[:, :1].expand_as(x) if kind == "constant" else x
    with torch.no_grad():
        for part in x.split(4096, dim=1):
            y, state = memory(part, state)
            largest.append(y.abs().max().item())
    assert max(largest) < (
        1e4 if name.startswith("dot") else 20
    )  # of its sum, n / (1 - a) are left
    assert all(w.isfinite().all() for _, w in weights(state))


@pytest.mark.parametrize("chunk", [4, 64])
@pytest.mark.parametrize("name", MEMORIES)
def test_after_4096_tokens_nothing_is_wiped(name, chunk):
    torch.manual_seed(0)
    memory, x = MEMORIES[name](16, chunk), torch.randn(1, 4096, 16, generator=generator())
    with torch.no_grad():
        y, state = memory(x)
    first = dict(weights(memory.init(1)))
    for part, w in weights(state):
        assert w.norm() > 0.1 * first[part].norm(), part
    assert y[:, -64:].norm() > 0.1 * y[:, :64].norm()


GATES = {
    "at the top": lambda shape: torch.ones(shape),
    "in the middle": lambda shape: torch.full(shape, 0.5),
    "at either end": lambda shape: torch.randint(2, shape, generator=torch.Generator()).float(),
    "in turn": lambda shape: (torch.arange(shape[-2])[:, None] % 2).expand(shape).float(),
}


def set_gates(memory, draw_shares):
    """Let the shares (..., T, G), from 0 to 1, decide rates and momentum of ``memory``."""
    for name, part in memory.named_modules():
        if isinstance(part, HardGate):
            part.forward = lambda raw, top=part.top: top * draw_shares(raw.shape)
        if name == "momentum":
            part._log_below_top = lambda raw, s=part.span: s * (draw_shares(raw.shape) - 1)


@pytest.mark.parametrize("grown", [1, 4])
@pytest.mark.parametrize("chunk", [1, 16])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("name", [name for name in MEMORIES if not name.startswith("dot")])
def test_no_gates_and_no_first_weights_make_a_memory_run_away(name, gates, chunk, grown):
    """Not even gates that alternate, on one token for ever, on few or on random ones."""
    torch.manual_seed(0)
    memory, x = MEMORIES[name](16, chunk), torch.randn(1, 512, 16, generator=generator())
    set_gates(memory, GATES[gates])
    with torch.no_grad():
        for part, w in memory.named_parameters():
            if part.endswith(("w1", "w2", "gates")):
                w += (w == 0) * torch.randn(w.shape, generator=generator()) / 16
                w *= grown
            if part.endswith("rate.offset"):  # of gates that are not set
                w += 30
        for some in (x, x[:, :1].expand_as(x), x[:, :4].repeat(1, 128, 1)):
            y, state = memory(some)
            assert y.abs().max() < (200 if grown == 1 else 1e4)  # of three levels in a row
            assert all(w.isfinite().all() for _, w in weights(state))


@pytest.mark.parametrize("name", MEMORIES)
def test_tokens_of_zeros_have_slopes_of_a_size(name):
    memory = MEMORIES[name](8, 4)
    x = torch.zeros(1, 9, 8).index_fill_(1, torch.tensor([3, 8]), 1.0).requires_grad_()
    y, _ = memory(x)
    grads = torch.autograd.grad(y.sum(), [x, *memory.parameters()], allow_unused=True)
    assert y.isfinite().all() and all(g is None or g.abs().max() < 1e6 for g in grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MEMORIES)
def test_half_precision_reads_nearly_as_double_does_and_stays_finite(name, dtype):
    torch.manual_seed(0)
    memory, x = MEMORIES[name](8, 4), torch.randn(2, 12, 8, generator=generator())
    with torch.no_grad():
        wanted = memory.double()(x.double())[0]
        y = memory.to(dtype)(x.to(dtype))[0]
    assert (y - wanted).norm() < 0.03 * wanted.norm()
    x = torch.randn(2, 64, 8, generator=generator()).to(dtype)
    for some in (0 * x, x):
        y, _ = memory(some)
        loss = y.float().sum()
        grads = torch.autograd.grad(loss, list(memory.parameters()), allow_unused=True)
        assert y.isfinite().all() and all(g is None or g.isfinite().all() for g in grads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-7, 1e-5, 1e-3, 1.0, 30.0])
def test_unit_vectors_are_those_of_torch_in_every_precision(dtype, size):
    x = (size * torch.randn(6, 128, generator=generator())).to(dtype)
    wanted = torch.nn.functional.normalize(x.double(), dim=-1, eps=1e-4)
    assert (unit(x) - wanted).norm() < 4 * torch.finfo(dtype).eps * wanted.norm()


@pytest.mark.parametrize("length", [8, 11])
@pytest.mark.parametrize("name", MEMORIES)
def test_a_copy_of_a_state_goes_on_as_the_state_does(name, length):
    """Of a state of its own a memory may know that weights now are those of the start; not here."""
    torch.manual_seed(0)
    memory, x = nudged(MEMORIES[name](6, 4)), torch.randn(2, 21, 6, generator=generator()).double()
    _, state = memory(x[:, :length])
    ours, theirs = memory(x[:, length:], state), memory(x[:, length:], detached(state))
    assert (ours[0] - theirs[0]).abs().max() < 1e-12
    for (part, a), (_, b) in zip(weights(ours[1]), weights(theirs[1]), strict=True):
        assert (a - b).abs().max() < 1e-12, part


@pytest.mark.parametrize("top", [1e-3, 0.9, 7.0])
def test_a_gate_starts_where_it_should_and_keeps_its_bounds(top):
    gate = Gate(top / 100, top / 3, top)
    assert abs(gate(torch.tensor(0.0)).item() / (top / 3) - 1) < 1e-5
    ends = gate(torch.tensor([-1e9, -50.0, 50.0, 1e9]))
    assert torch.allclose(ends, torch.tensor([top / 100, top / 100, top, top]))
    slope = torch.autograd.grad(gate(torch.tensor(0.0)), gate.offset)[0]
    assert slope > 0.1 * gate(torch.tensor(0.0))  # in log space no start is flat
    gate.shut()
    assert torch.equal(gate(torch.tensor([-1e9, 0.0, 1e9])), torch.zeros(3))


@pytest.mark.parametrize("bounds", [(0, 1, 2), (1, 1, 2), (1, 2, 2), (2, 1, 3), (1, 2, math.inf)])
def test_a_gate_without_room_is_refused(bounds):
    with pytest.raises(ValueError, match="0 < low < start < top < inf"):
        Gate(*bounds)
    with pytest.raises(ValueError, match="a gate has 0 < start < top < inf"):
        HardGate(1.0, math.inf)
    with pytest.raises(ValueError, match="size is a whole number from 1, but got -1"):
        HardGate(1.0, 2.0, -1)


@pytest.mark.parametrize("position", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
def test_cuts_come_after_every_eighth_token(position, length):
    sizes = piece_sizes(position, length, 8)
    ends = [position + sum(sizes[:i]) for i in range(1, len(sizes))]
    assert sum(sizes) == length and min(sizes) > 0
    assert ends == [t for t in range(position + 1, position + length) if t % 8 == 0]


def test_detach_every_leaves_first_weights_the_first_tokens_gradient_alone():
    x = torch.randn(1, 12, 4, generator=generator())
    memory = TitansMemory(4, 2, detach_every=6)
    y, _ = memory(x)
    late = torch.autograd.grad(y[:, 6:].sum(), memory.w1, retain_graph=True)[0]
    early = torch.autograd.grad(y[:, :6].sum(), memory.w1)[0]
    assert late.abs().sum() == 0 and early.abs().sum() > 0


SHAPES = [(1, 2, 4)] * 3 + [(1, 2)] * 2 + [(1, 4, 4)]  # what by_chunks takes


def at_position(position):
    memory = LinearMemory(4)
    state = {**memory.init(1), "position": torch.tensor([position])}
    return memory(torch.zeros(1, 2, 4), state)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: LinearMemory(0), "dim is a whole number from 1, but got 0"),
        (lambda: TitansMemory(4, 0), "chunk is a whole number from 1, but got 0"),
        (lambda: TitansMemory(4, 2.0), "chunk is a whole number from 1, but got 2.0"),
        (lambda: LinearMemory(4, "huber"), "objective is one of .* but got 'huber'"),
        (lambda: SelfModifyingTitans(4, "L2"), "objective is one of .* but got 'L2'"),
        (lambda: SelfModifyingTitans(4, chunk=8, detach_every=4), "take a number over 8"),
        (lambda: ContinuumMemory(4, (2, 8), detach_every=8), "take a number over 8"),
        (lambda: by_chunks(*map(torch.zeros, SHAPES), "L2"), "objective is one of"),
        (lambda: by_tokens(*map(torch.zeros, SHAPES), "L2"), "objective is one of"),
        (lambda: by_chunks(*map(torch.zeros, SHAPES), chunk=0), "chunk is a whole number from 1"),
        (lambda: at_position(-3), r"positions are whole numbers from 0, but got \[-3\]"),
        (lambda: at_position(2.5), "position is torch.float32, but here .* keeps torch.int64"),
        (lambda: SelfModifyingTitans(4, reads="end"), "reads is one of .* but got 'end'"),
        (lambda: TitansMemory(4, detach_every=0), "detach_every is a whole number from 1"),
        (lambda: ContinuumMemory(4, (0, 4)), "a clock's period is a whole number from 1"),
        (lambda: ContinuumMemory(4, (4, 4)), "periods rise from fast to slow"),
        (lambda: ContinuumMemory(4, (4, 6), "nested"), "each a multiple of the one before"),
        (lambda: ContinuumMemory(4, (4,), "parallel"), "form is one of .* but got 'parallel'"),
        (lambda: TitansMemory(4)(torch.zeros(1, 2, 4).long()), "torch.int64: embed tokens first"),
        (lambda: TitansMemory(4)(torch.zeros(1, 2, 5)), r"\(samples, tokens, 4\).* \(1, 2, 5\)"),
        (lambda: TitansMemory(4)([1, 2]), "floating point, but got list"),
        (
            lambda: TitansMemory(4)(torch.zeros(2, 2, 4), TitansMemory(4).init(3)),
            r"state.memory.now.s is \(3, 4, 4\) .*, but here \(2, 4, 4\) .*; None starts anew",
        ),
        (
            lambda: TitansMemory(4)(torch.zeros(2, 2, 4), LinearMemory(4).init(2)),
            r"state.memory.matrix is \(2, 4, 4\) .*, but here absent",
        ),
    ],
)
def test_mistakes_are_said_in_words(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_delta_rule_replaces_at_a_rate_of_1_and_reflects_at_2():
    memory = LinearMemory(4)
    x = torch.randn(1, 1, 4, generator=generator()).expand(1, 9, 4)
    with torch.no_grad():
        memory.query.weight.copy_(memory.key.weight)
        assert torch.allclose(memory(x)[0], memory.value(x), atol=1e-3)  # the rate starts at 1
        memory.rate.offset += 30
        flips = torch.tensor([2.0, 0.0] * 4 + [2.0])[None, :, None]
        assert torch.allclose(memory(x)[0], flips * memory.value(x), atol=1e-2)


def test_the_gates_of_titans_have_the_bounds_that_are_documented():
    memory = TitansMemory(4, 8)
    for bias in (-1e3, 1e3):
        with torch.no_grad():
            for gate in (memory.rate, memory.momentum, memory.forgetting):
                gate.offset.fill_(bias)
        gates = [
            g(torch.zeros(1)).item() for g in (memory.rate, memory.momentum, memory.forgetting)
        ]
        bounds = (0, 0.001, 1e-6) if bias < 0 else (2, 0.8, 0.1)
        assert gates == pytest.approx(bounds)


def test_small_self_modifying_titans_keep_a_part_of_their_first_weights():
    torch.manual_seed(0)
    memory = SelfModifyingTitans(16, chunk=4)
    with torch.no_grad():
        _, state = memory(torch.randn(1, 4096, 16))
        now, first = state["memory"]["now"]["w2"][0], memory.w2
        share = (now * first).sum((1, 2)) / first.square().sum((1, 2))
    assert (share > 0.25).all()  # a rate of 0.19 / 4 would leave 0.17 at most


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-8])
def test_damping_does_not_depend_on_the_size_of_the_error(size):
    share = damping(*(torch.tensor([x]) for x in (1.0, size, 4 * size)))
    assert share.item() == pytest.approx(1 / 5)  # 1 / (|units|^2 + |back|^2 / |error|^2)


def test_tokens_missing_or_too_many_are_refused_in_words():
    x, gates, matrix = torch.zeros(1, 4, 3), torch.zeros(1, 4), torch.zeros(1, 3, 3)
    wrong = {
        "rates are": (x, x, x, gates[:, :3], gates, matrix),
        "retentions are": (x[:, :1], x[:, :1], x[:, :1], gates[:, :1], gates[:, :1, None], matrix),
        "values are": (x, x[:, :3], x, gates, gates, matrix),
        "queries are": (x, x, x[..., :2], gates, gates, matrix),
        "first matrices are": (x, x, x, gates, gates, matrix.repeat(2, 1, 1)),
        "with B and T from 1": (x[:, :0], x[:, :0], x[:, :0], gates[:, :0], gates[:, :0], matrix),
    }
    for message, tensors in wrong.items():
        for read in (by_chunks, by_tokens):
            with pytest.raises(ValueError, match=message):
                read(*tensors)
