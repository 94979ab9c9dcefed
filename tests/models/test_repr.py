"""What is printed of a memory or model shows how it was made."""

import pytest

from nested.memory import ContinuumMemory, Gate, LinearMemory, SelfModifyingTitans, TitansMemory
from nested.models import Hope, ModelConfig, Transformer
from nested.models.attention import Attention
from nested.models.convolution import Convolution


@pytest.mark.parametrize(
    "module, wanted",
    [
        (LinearMemory(8, "dot", 4), "dim=8, objective='dot', chunk=4, heads=1, products=1"),
        (TitansMemory(8, 4, detach_every=9), "dim=8, detach_every=9, chunk=4, heads=1"),
        (
            SelfModifyingTitans(8, chunk=4),
            "dim=8, chunk=4, objective='l2', reads='now', heads=1, products=1",
        ),
        (ContinuumMemory(8, (2, 4), "nested"), "dim=8, periods=(2, 4), form='nested'"),
        (ContinuumMemory(8, (2, 4)).levels[1], "dim=8, chunk=4"),
        (Gate(0.01, 0.5, 2.0), "low=0.01, top=2"),
        (Attention(8, 2), "dim=8, heads=2"),
        (Convolution(8, 3), "dim=8, taps=3"),
        (Hope(ModelConfig(dim=8)), str(ModelConfig(dim=8))),
        (Transformer(ModelConfig(dim=8)), str(ModelConfig(dim=8))),
    ],
)
def test_a_module_shows_its_settings(module, wanted):
    assert module.extra_repr() == wanted
    assert wanted in repr(module).replace("\n  ", " ")


def test_a_gate_that_is_shut_shows_it():
    gate = Gate(0.01, 0.5, 2.0)
    gate.shut()
    assert repr(gate) == "Gate(shut)"
