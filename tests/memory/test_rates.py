"""Rates that reach both ends: a memory that keeps or flips its state exactly, for ever."""

import pytest
import torch

from nested.memory import shut
from nested.memory.gates import HardGate
from nested.memory.linear import by_chunks


@pytest.mark.parametrize("start, top", [(0.5, 1.0), (1.0, 2.0), (0.1, 0.95)])
def test_a_hard_gate_reaches_both_its_ends_and_comes_back_from_them(start, top):
    raw = torch.tensor([-5.0, 0.0, 5.0])
    assert torch.allclose(HardGate(start, top, 3)(raw), torch.tensor([0.0, start, top]))
    assert HardGate(start, top)(raw[::2]).tolist() == [0, torch.tensor(top).item()]  # exactly
    raw = torch.linspace(-0.6, 0.6, 13, requires_grad=True)
    (slope,) = torch.autograd.grad(HardGate(start, top)(raw).sum(), raw)
    assert (slope > 0.1 * top).all()  # no start is dead, nor is an end
    gate = HardGate(start, top).eval()
    (slope,) = torch.autograd.grad(gate(raw).sum(), raw)
    assert ((slope > 0) == (gate(raw) > 0) & (gate(raw) < top)).all()
    shut(gate)
    assert not gate(torch.ones(3)).any()


def test_at_its_ends_the_delta_rule_counts_to_two_for_ever():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(2, (4, 8192), generator=generator)
    key = torch.nn.functional.normalize(torch.randn(1, 1, 6, generator=generator), dim=-1)
    keys, values = key.expand(4, 8192, 6), torch.zeros(4, 8192, 6)
    first = torch.randn(4, 6, 6, generator=generator)
    wanted = (1 - 2.0 * (bits.cumsum(1) % 2))[..., None] * (first @ key[0].mT).mT.reshape(4, 1, 6)
    for rates, is_exact in ((2.0 * bits, True), (1.98 * bits, False)):
        reads, _ = by_chunks(keys, values, keys, rates, torch.zeros(4, 8192), first, chunk=16)
        assert ((reads - wanted).abs().max() < 0.01) == is_exact
