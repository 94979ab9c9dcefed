"""What a rule sees, against torch.optim's own optimizers and formulas of others."""

import math

import pytest
import torch
from torch import Generator, nn

from nested.rules.features import (
    COORDINATE_FEATURES,
    DECAYS,
    DIRECTIONS,
    SQUARE_DECAY,
    TENSOR_FEATURES,
    Memories,
    look_at,
    moment_of,
    remember,
    within_reach,
)

STEPS, TOTAL = 7, 40


def draw(*shape, seed=0):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def gradients(*shape):
    return [draw(*shape, seed=k) * (1 + k % 3) for k in range(1, STEPS + 1)]


def seen_after(weight, grads, total=TOTAL):
    """What there is to see of ``weight`` when the last of ``grads`` has come."""
    count = weight.numel()
    memories = Memories(weight.new_zeros(len(DECAYS), count), weight.new_zeros(count))
    for grad in grads:
        memories = remember(memories, grad.flatten())
    step = weight.new_full((1,), float(len(grads)))
    total = None if total is None else weight.new_full((1,), float(total))
    return look_at(weight, grads[-1], memories, moment_of(step, total)), memories


def moves_by(optimizer, weight, grads):
    """The last move of a ``torch.optim`` optimizer of rate 1."""
    p = nn.Parameter(weight.clone())
    optimizer = optimizer([p])
    for grad in grads:
        before, p.grad = p.detach().clone(), grad.clone()
        optimizer.step()
    return before - p.detach()


ALL = slice(None)


def directions_of(seen):
    return seen.at(ALL)[1]


def direction(seen, name):
    return directions_of(seen)[DIRECTIONS.index(name)]


@pytest.mark.parametrize("shape", [(5,), (4, 6), (6, 4)])
@pytest.mark.parametrize("decay", DECAYS)
def test_a_momentum_over_root_v_is_adams_move(shape, decay):
    weight, grads = draw(*shape), gradients(*shape)
    seen, _ = seen_after(weight, grads)
    adam = moves_by(
        lambda p: torch.optim.Adam(p, 1.0, betas=(decay, SQUARE_DECAY), eps=0), weight, grads
    )
    found = direction(seen, f"momentum {decay} over root V")
    assert torch.allclose(found, adam.flatten(), rtol=1e-4)  # but for the floor under V


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_the_orthogonal_direction_is_muons_move(shape):
    weight, grads = draw(*shape).float(), [g.float() for g in gradients(*shape)]
    seen, _ = seen_after(weight, grads)
    muon = moves_by(
        lambda p: torch.optim.Muon(p, 1.0, momentum=0.9, nesterov=False, weight_decay=0.0),
        weight,
        grads,
    )
    size = math.sqrt(max(shape)) / max(1, shape[0] / shape[1]) ** 0.5
    found = direction(seen, "momentum 0.9, orthogonal")
    assert (found - size * muon.flatten()).norm() < 0.05 * found.norm()  # theirs is bfloat16


def test_the_factored_direction_is_adafactors_formula():
    weight, grads = draw(4, 6), gradients(4, 6)
    seen, memories = seen_after(weight, grads)
    v = memories.square.view(4, 6) / (1 - SQUARE_DECAY**STEPS)
    momentum = memories.momenta[1].view(4, 6) / (1 - 0.9**STEPS)
    wanted = momentum / torch.outer(v.sum(1), v.sum(0)).div(v.sum()).sqrt()
    found = direction(seen, "momentum 0.9 over factored root V").view(4, 6)
    assert torch.allclose(found, wanted, rtol=1e-4)


def test_there_is_a_row_for_each_name():
    seen, _ = seen_after(draw(4, 6), gradients(4, 6))
    assert seen.at(ALL)[1].shape == (len(DIRECTIONS), 24)
    assert seen.at(ALL)[0].shape == (len(COORDINATE_FEATURES), 24)
    assert seen.tensor.shape == (len(TENSOR_FEATURES),)


@pytest.mark.parametrize("shape", [(5,), (4, 6)])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_size_of_gradients_and_weights_does_not_matter(shape, scale):
    weight, grads = draw(*shape), gradients(*shape)
    usual, _ = seen_after(weight, grads)
    scaled, _ = seen_after(scale * weight, [scale * g for g in grads])
    assert torch.allclose(scaled.at(ALL)[1], usual.at(ALL)[1], rtol=1e-4, atol=1e-6)
    assert torch.allclose(scaled.at(ALL)[0], usual.at(ALL)[0], rtol=1e-4, atol=1e-5)
    size = TENSOR_FEATURES.index("log size")
    others = [i for i in range(len(TENSOR_FEATURES)) if i != size]
    assert torch.allclose(scaled.tensor[others], usual.tensor[others], rtol=1e-4, atol=1e-5)
    assert (scaled.tensor[size] - usual.tensor[size]).abs() > 1


def test_without_gradients_no_direction_is_left_but_the_weights_own():
    seen, _ = seen_after(draw(4, 6), [torch.zeros(4, 6).double()] * 3)
    assert [n for n, d in zip(DIRECTIONS, seen.at(ALL)[1]) if d.abs().max() > 1e-6] == ["weight"]


def test_the_clock_is_seen_by_those_who_are_told():
    told, _ = seen_after(draw(5), gradients(5))
    later, _ = seen_after(draw(5), gradients(5), total=4000)
    alone, _ = seen_after(draw(5), gradients(5), total=None)
    assert (alone.tensor[-3:] == 0).all() and (told.tensor[-3:] != later.tensor[-3:]).all()
    progress = told.tensor[TENSOR_FEATURES.index("progress")].item()
    assert progress == pytest.approx(2 * (STEPS - 1) / TOTAL - 1)
    assert torch.equal(told.tensor[:-3], alone.tensor[:-3])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_no_numbers_leave_numbers(bad):
    grads = gradients(4, 6)
    grads[2][1, 1] = bad
    grads[-1][0, 0] = bad
    grads = [within_reach(grad) for grad in grads]
    seen, _ = seen_after(draw(4, 6), grads)
    assert all(part.isfinite().all() for part in [*seen, *seen.at(ALL)])


@pytest.mark.parametrize("shape", [(7,), (4, 6)])
def test_some_coordinates_are_seen_as_they_are_among_all(shape):
    seen, _ = seen_after(draw(*shape), gradients(*shape))
    for whole, part in zip(seen.at(ALL), seen.at(slice(2, 5))):
        assert torch.equal(whole[:, 2:5], part)


@pytest.mark.parametrize("shape", [(5,), (4, 6)])
def test_many_tasks_are_seen_as_one_after_another(shape):
    weights, grads = draw(3, *shape), gradients(3, *shape)
    count = math.prod(shape)
    memories = Memories(weights.new_zeros(3, len(DECAYS), count), weights.new_zeros(3, count))
    for grad in grads:
        memories = remember(memories, grad.flatten(1))
    step, total = (weights.new_full((3, 1), float(x)) for x in (STEPS, TOTAL))
    together = look_at(weights, grads[-1], memories, moment_of(step, total))
    for t in range(3):
        alone, _ = seen_after(weights[t], [g[t] for g in grads])
        pairs = [*zip(together.at(ALL), alone.at(ALL)), (together.tensor, alone.tensor)]
        for ours, theirs in [*pairs, (together.pulse, alone.pulse)]:
            assert torch.allclose(ours[t], theirs, rtol=1e-10, atol=1e-12)
