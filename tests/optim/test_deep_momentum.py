"""Deep momentum against eq. 50 with the objective of eq. 34, differentiated by autograd."""

import weakref

import pytest
import torch
from torch import Generator, is_tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nested.optim import DeepMomentum
from nested.optim.deep_momentum import _of_size_one

SHAPES = {"coordinate": [(3, 5), (4,), (2, 2, 3)], "shape": [(3, 5), (3, 5), (4,), (2, 2, 3)]}


def draw(shape, seed):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def answer(theta, keys, count):
    """m(k) for each tensor's keys (N, C)."""
    b, inner, outer = theta["b"], theta["inner"], theta["outer"]
    scale = (count * len(inner)) ** -0.5
    return [x + torch.tanh(k @ inner.T) @ outer.T * scale for x, k in zip(b, keys)]


def transcription(start, inner_start, width, gradients, lr, a):
    """theta <- theta_0 + a (theta - theta_0) - n grad L;  W <- W + m(k), for one net."""
    weights = [w.reshape(-1, width).clone() for w in start]
    count = sum(map(len, weights))
    first = {"b": [torch.zeros_like(w) for w in weights], "inner": inner_start}
    first["outer"] = torch.zeros(width, len(inner_start), dtype=torch.float64)
    theta = {name: [*x] if name == "b" else x.clone() for name, x in first.items()}
    for gradient in gradients:
        u = [g.reshape(-1, width) for g in gradient]
        keys = [x / x.square().mean().sqrt() for x in u]
        flat = [*theta["b"], theta["inner"], theta["outer"]]
        flat = [x.detach().requires_grad_() for x in flat]
        live = {"b": flat[:-2], "inner": flat[-2], "outer": flat[-1]}
        said = answer(live, keys, count)
        loss = sum((m * x).sum() for m, x in zip(said, u))  # <m(k), u>
        grads = torch.autograd.grad(loss, flat)
        origin = [*first["b"], first["inner"], first["outer"]]
        flat = [o + a * (x.detach() - o) - lr * d for o, x, d in zip(origin, flat, grads)]
        theta = {"b": flat[:-2], "inner": flat[-2], "outer": flat[-1]}
        weights = [w + m for w, m in zip(weights, answer(theta, keys, count))]
    return [w.reshape(s.shape) for w, s in zip(weights, start)]


@pytest.mark.parametrize("shared", ["coordinate", "shape"])
def test_it_is_equation_50(shared):
    params = [nn.Parameter(draw(s, i)) for i, s in enumerate(SHAPES[shared])]
    start = [p.detach().clone() for p in params]
    gradients = [[draw(p.shape, 10 * k + i) for i, p in enumerate(params)] for k in range(20)]
    optimizer = DeepMomentum(params, 0.3, 0.8, hidden=3, shared=shared)
    for gradient in gradients:
        for p, g in zip(params, gradient):
            p.grad = g.clone()
        optimizer.step()
    groups = [[0, 1, 2]] if shared == "coordinate" else [[0, 1], [2], [3]]
    for members in groups:
        inner = optimizer.state[params[members[0]]]["B_start"]
        found = transcription(
            [start[i] for i in members],
            inner,
            inner.shape[1],
            [[gradient[i] for i in members] for gradient in gradients],
            0.3,
            0.8,
        )
        for i, expected in zip(members, found):
            assert torch.allclose(params[i], expected, rtol=1e-10, atol=1e-12)


def train(make, steps=20):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    inputs, targets, optimizer = draw((30, 5), 1), draw((30, 2), 2), make(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(inputs), targets).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]), optimizer


def test_a_linear_identity_memory_is_plain_momentum():
    ours, _ = train(lambda params: DeepMomentum(params, 0.1, 0.9, hidden=0))
    theirs, _ = train(lambda params: torch.optim.SGD(params, 0.1, 0.9))
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_it_differs_from_plain_momentum_by_gradients_with_similar_keys():
    """A step later the net says -n sum_s u_s <h_s, h_r> to row r; h = tanh(B k) / sqrt(N H)."""
    p, u = nn.Parameter(torch.zeros(6, 4).double()), draw((6, 4), 1)
    optimizer = DeepMomentum([p], 0.1, hidden=5, shared="shape")
    p.grad = u.clone()
    optimizer.step()
    keys = u / u.square().mean().sqrt()
    hidden = torch.tanh(keys @ optimizer.state[p]["B_start"].T)
    alike = hidden @ hidden.T / (6 * 5)
    assert torch.allclose(p, -0.1 * u - 0.1 * alike @ u, rtol=1e-10)
    assert (p + 0.1 * u).norm() > 0.05 * p.norm()


@pytest.mark.parametrize("shared", ["coordinate", "shape"])
def test_a_net_changes_the_moves_and_learns(shared):
    ours, optimizer = train(lambda params: DeepMomentum(params, 0.1, 0.9, shared=shared))
    plain, _ = train(lambda params: DeepMomentum(params, 0.1, 0.9, hidden=0))
    assert (ours - plain).norm() > 0.01 * plain.norm()
    for state in optimizer.state.values():
        if "B" in state:
            assert not torch.equal(state["B"], state["B_start"]) and state["A"].norm() > 0


@pytest.mark.parametrize("shared", ["coordinate", "shape"])
def test_the_memory_is_within_four_times_the_parameters(shared):
    shapes = [(64, 32), (64, 32), (32,), (10, 64), (1, 1), ()]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = DeepMomentum(params, 0.1, hidden=64, shared=shared)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    tensors = [x for s in optimizer.state.values() for x in s.values() if torch.is_tensor(x)]
    assert sum(x.numel() for x in tensors) <= 4 * sum(p.numel() for p in params)


def test_the_start_is_drawn_from_the_generator():
    def first(generator):
        p = nn.Parameter(torch.ones(3))
        optimizer = DeepMomentum([p], 0.1, generator=generator)
        p.grad = torch.ones(3)
        optimizer.step()
        return optimizer.state[p]["B_start"]

    one, same, other = (first(Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_wrong_settings_are_refused():
    p = nn.Parameter(torch.ones(3))
    for wrong, said in (
        ({"hidden": -1}, "hidden is 0 or more, and finite, but got -1"),
        ({"hidden": 2.5}, "hidden is a whole number"),
        ({"shared": "all"}, "shared is one of"),
        ({"momentum": 1.0}, "momentum is 0 or more, and below 1, but got 1.0"),
        ({"hidden": True}, "hidden is"),
        ({"generator": 3}, "generator is a torch.Generator or None, but got 3"),
    ):
        with pytest.raises(ValueError, match=said):
            DeepMomentum([p], 0.1, **wrong)


def test_nets_are_shared_by_exact_shape_and_dtype():
    shapes = [(2, 6), (3, 4), (2, 6), (12,)]
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    params.append(nn.Parameter(torch.ones(2, 6).double()))
    for shared, owners in (("shape", {0, 1, 3, 4}), ("coordinate", {0, 4})):
        optimizer = DeepMomentum(params, 0.1, shared=shared)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert {i for i, p in enumerate(params) if "A" in optimizer.state[p]} == owners


def test_the_net_of_weights_that_share_it_is_the_same_whichever_has_a_gradient_first():
    """N counts all of them, and the net is kept with the first, so that it is found again."""
    first, second = (nn.Parameter(torch.ones(5)) for _ in range(2))
    optimizer = DeepMomentum([first, second], 0.1)
    second.grad = torch.ones(5)
    optimizer.step()
    assert optimizer.state[first]["rows"] == 10 and "A" not in optimizer.state[second]


def test_the_start_does_not_grow_with_the_width():
    p = nn.Parameter(torch.ones(400, 900))
    optimizer = DeepMomentum([p], 0.1, hidden=64, shared="shape")
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["B_start"].norm(dim=1).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_keys_have_size_one_for_gradients_of_any_size(scale):
    key = _of_size_one(scale * torch.tensor([1.0, -2.0, 3.0]))
    assert torch.allclose(key, _of_size_one(torch.tensor([1.0, -2.0, 3.0])))
    assert key.square().mean().item() == pytest.approx(1)


class Live(TorchDispatchMode):
    """The most bytes that tensors made in it take at one time, as a share of ``weights``."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.now, self.most, self.known = weights, 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {
            x.untyped_storage().data_ptr() for x in tree_leaves([args, kwargs]) if is_tensor(x)
        }
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if is_tensor(x) and x.untyped_storage().data_ptr() not in before | self.known:
                storage = x.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                self.known.add(place)
                self.now += size
                weakref.finalize(storage, self.free, place, size)
        self.most = max(self.most, self.now)
        return out

    def free(self, place, size):
        self.known.discard(place)
        self.now -= size

    @property
    def share(self):
        return self.most / sum(p.nbytes for p in self.weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", ["coordinate", "shape"])
def test_temporaries_are_less_than_four_times_the_weights(shared, dtype):
    params = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in [(1024, 1024), (512, 700)]]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = DeepMomentum(params, 1e-3, shared=shared)
    optimizer.step()
    with Live(params) as live:
        optimizer.step()
    assert 0.1 < live.share < 4


@pytest.mark.parametrize("shared", ["coordinate", "shape"])
def test_a_step_in_parts_is_a_step_at_once(shared, monkeypatch):
    runs = []
    for numbers in (2**18, 7):
        monkeypatch.setattr("nested.optim.deep_momentum.NUMBERS", numbers)
        monkeypatch.setattr("nested.optim.deep_momentum.SMALL", numbers)
        runs.append(train(lambda params: DeepMomentum(params, 0.1, 0.9, shared=shared))[0])
    assert torch.allclose(*runs, rtol=1e-11)


def test_half_precision_is_computed_in_single():
    moved = []
    for dtype in (torch.bfloat16, torch.float64):
        p, g = nn.Parameter(torch.zeros(50, 40, dtype=dtype)), draw((50, 40), 1).bfloat16()
        optimizer = DeepMomentum([p], 1.0)
        p.grad = g.to(dtype)
        optimizer.step()
        moved.append(p.detach().double())
    assert (moved[0] - moved[1]).norm() < 0.01 * moved[1].norm()
