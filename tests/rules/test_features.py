"""Directions and features of a rule, against ``torch.optim`` and published formulas."""

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
    coordinate_features,
    directions,
    remember,
    sanitise,
    tensor_features,
    time_features,
)

STEPS, TOTAL = 7, 40


def draw(*shape, seed=0):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def gradients(*shape):
    return [draw(*shape, seed=k) * (1 + k % 3) for k in range(1, STEPS + 1)]


def view_after(weight, grads, total=TOTAL):
    """What a rule sees of ``weight`` after the last of ``grads``, and its memories."""
    count = weight.numel()
    memories = Memories(weight.new_zeros(len(DECAYS), count), weight.new_zeros(count))
    for grad in grads:
        memories = remember(memories, grad.flatten())
    step = weight.new_full((1,), float(len(grads)))
    total = None if total is None else weight.new_full((1,), float(total))
    return tensor_features(weight, grads[-1], memories, time_features(step, total)), memories


def moves_by(optimizer, weight, grads):
    """The last move of a ``torch.optim`` optimizer of rate 1."""
    p = nn.Parameter(weight.clone())
    optimizer = optimizer([p])
    for grad in grads:
        before, p.grad = p.detach().clone(), grad.clone()
        optimizer.step()
    return before - p.detach()


@pytest.mark.parametrize("shape", [(5,), (4, 6), (6, 4)])
@pytest.mark.parametrize("decay", DECAYS)
def test_a_momentum_over_root_v_is_adams_move(shape, decay):
    weight, grads = draw(*shape), gradients(*shape)
    view, _ = view_after(weight, grads)
    adam = moves_by(
        lambda p: torch.optim.Adam(p, 1.0, betas=(decay, SQUARE_DECAY), eps=0), weight, grads
    )
    direction = directions(view)[f"momentum {decay} over root V"]
    assert torch.allclose(direction, adam.flatten(), rtol=1e-4)  # but for the floor under V


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_the_orthogonal_direction_is_muons_move(shape):
    weight, grads = draw(*shape).float(), [g.float() for g in gradients(*shape)]
    view, _ = view_after(weight, grads)
    muon = moves_by(
        lambda p: torch.optim.Muon(p, 1.0, momentum=0.9, nesterov=False, weight_decay=0.0),
        weight,
        grads,
    )
    size = math.sqrt(max(shape)) / max(1, shape[0] / shape[1]) ** 0.5
    direction = directions(view)["momentum 0.9, orthogonal"]
    distance = (direction - size * muon.flatten()).norm()
    assert distance < 0.05 * direction.norm()  # theirs is bfloat16


def test_the_factored_direction_is_adafactors_formula():
    weight, grads = draw(4, 6), gradients(4, 6)
    view, memories = view_after(weight, grads)
    v = memories.square.view(4, 6) / (1 - SQUARE_DECAY**STEPS)
    momentum = memories.momenta[1].view(4, 6) / (1 - 0.9**STEPS)
    wanted = momentum / torch.outer(v.sum(1), v.sum(0)).div(v.sum()).sqrt()
    direction = directions(view)["momentum 0.9 over factored root V"].view(4, 6)
    assert torch.allclose(direction, wanted, rtol=1e-4)


def test_there_is_a_row_for_each_name():
    view, _ = view_after(draw(4, 6), gradients(4, 6))
    assert directions(view).keys() == set(DIRECTIONS)
    features, stacked = coordinate_features(view)
    assert stacked.shape == (len(DIRECTIONS), 24)
    assert features.shape == (len(COORDINATE_FEATURES), 24)
    assert view.features.shape == (len(TENSOR_FEATURES),)
    for row, name in zip(stacked, DIRECTIONS):
        assert torch.equal(row, directions(view)[name])


@pytest.mark.parametrize("shape", [(5,), (4, 6)])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_size_of_gradients_and_weights_does_not_matter(shape, scale):
    weight, grads = draw(*shape), gradients(*shape)
    usual, _ = view_after(weight, grads)
    scaled, _ = view_after(scale * weight, [scale * g for g in grads])
    pairs = zip(coordinate_features(scaled), coordinate_features(usual), (1e-5, 1e-6))
    for ours, theirs, atol in pairs:
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=atol)
    size = TENSOR_FEATURES.index("log size")
    others = [i for i in range(len(TENSOR_FEATURES)) if i != size]
    assert torch.allclose(scaled.features[others], usual.features[others], rtol=1e-4, atol=1e-5)
    assert (scaled.features[size] - usual.features[size]).abs() > 1


def test_without_gradients_only_weight_decay_is_left():
    view, _ = view_after(draw(4, 6), [torch.zeros(4, 6).double()] * 3)
    assert [n for n, d in directions(view).items() if d.abs().max() > 1e-6] == ["weight"]


def test_features_of_the_horizon_need_the_total():
    informed, _ = view_after(draw(5), gradients(5))
    later, _ = view_after(draw(5), gradients(5), total=4000)
    alone, _ = view_after(draw(5), gradients(5), total=None)
    assert (alone.features[-3:] == 0).all()
    assert (informed.features[-3:] != later.features[-3:]).all()
    progress = informed.features[TENSOR_FEATURES.index("progress")].item()
    assert progress == pytest.approx(2 * (STEPS - 1) / TOTAL - 1)
    assert torch.equal(informed.features[:-3], alone.features[:-3])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinite_gradients_give_finite_features(bad):
    grads = gradients(4, 6)
    grads[2][1, 1] = bad
    grads[-1][0, 0] = bad
    grads = [sanitise(grad) for grad in grads]
    view, _ = view_after(draw(4, 6), grads)
    parts = [*view[:5], *view.means, view.features, view.alive, *coordinate_features(view)]
    assert all(part.isfinite().all() for part in parts)


@pytest.mark.parametrize("shape", [(7,), (4, 6)])
def test_a_part_of_the_coordinates_has_the_features_of_the_whole(shape):
    view, _ = view_after(draw(*shape), gradients(*shape))
    for whole, part in zip(coordinate_features(view), coordinate_features(view, slice(2, 5))):
        assert torch.equal(whole[:, 2:5], part)


@pytest.mark.parametrize("shape", [(5,), (4, 6)])
def test_tasks_side_by_side_have_the_features_of_each_alone(shape):
    weights, grads = draw(3, *shape), gradients(3, *shape)
    count = math.prod(shape)
    memories = Memories(weights.new_zeros(3, len(DECAYS), count), weights.new_zeros(3, count))
    for grad in grads:
        memories = remember(memories, grad.flatten(1))
    step, total = (weights.new_full((3, 1), float(x)) for x in (STEPS, TOTAL))
    together = tensor_features(weights, grads[-1], memories, time_features(step, total))
    for t in range(3):
        alone, _ = view_after(weights[t], [g[t] for g in grads])
        pairs = [*zip(coordinate_features(together), coordinate_features(alone))]
        pairs += [(together.features, alone.features), (together.alive, alone.alive)]
        for ours, theirs in pairs:
            assert torch.allclose(ours[t], theirs, rtol=1e-10, atol=1e-12)
