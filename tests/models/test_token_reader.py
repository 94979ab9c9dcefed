"""One token at a time as a recorded program: the numbers of the model, at any position."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nested.memory import pick, stack_states
from nested.models import Hope, ModelConfig, Transformer
from nested.models.token_reader import TokenReader
from tests.problems import generator


def build(mixer, kind=Hope):
    torch.manual_seed(0)
    return kind(ModelConfig(11, 16, 2, 2, mixer, (3, 6), 4, products=1)).eval()


@pytest.mark.parametrize("kind, mixer", [(Hope, m) for m in ("linear", "titans", "selfmod")])
def test_the_recorded_program_is_the_model_over_all_clocks(kind, mixer):
    model = build(mixer, kind)
    reader, tokens = TokenReader(model), torch.randint(11, (2, 40), generator=generator())
    with torch.no_grad():
        logits, state = model(tokens[:, :5])
        ours, other = reader(tokens[:, :5])
        assert torch.equal(ours, logits)
        for t in range(5, 40):
            logits, state = model(tokens[:, t : t + 1], state)
            ours, other = reader(tokens[:, t : t + 1], other)
            assert torch.allclose(ours, logits, atol=1e-6)
    for a, b in zip(tree_leaves(other), tree_leaves(state), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert len(reader._programs) == 1


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod"])
def test_samples_at_different_positions_share_a_program(mixer):
    model, tokens = build(mixer), torch.randint(11, (3, 30), generator=generator())
    reader = TokenReader(model)
    with torch.no_grad():
        states = [model(tokens[b : b + 1, : 4 * b + 1])[1] for b in range(3)]
        together = stack_states(states)
        for t in range(15, 30):
            logits, together = reader(tokens[:, t : t + 1], together)
            for b in range(3):
                own, states[b] = model(tokens[b : b + 1, t : t + 1], states[b])
                assert torch.allclose(logits[b], own[0], atol=1e-5)
        assert pick(together, [2])["blocks"][0]["mixer"]["position"] == 24


@pytest.mark.parametrize("kind, mixer", [(Hope, "attention"), (Transformer, "linear")])
def test_a_state_that_grows_is_read_by_the_model_itself(kind, mixer):
    model, tokens = build(mixer, kind), torch.randint(11, (1, 9), generator=generator())
    reader, state, other = TokenReader(model), None, None
    for t in range(9):
        logits, state = model(tokens[:, t : t + 1], state)
        ours, other = reader(tokens[:, t : t + 1], other)
        assert torch.equal(ours, logits) and not reader._programs
