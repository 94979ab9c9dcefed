"""M3 against Algorithm 1, torch.optim.Muon and torch.optim.AdamW."""

import math

import pytest
import torch
from torch import Generator, nn

from nested.optim import M3, newton_schulz

SHAPES = [(6, 6), (4, 9), (9, 4), (5, 2, 3)]


def draw(shape, seed):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def gradients(shape, steps=20):
    return [draw(shape, k) / (1 + k % 5) for k in range(1, steps + 1)]


def run(optimizer, p, grads):
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach()


def ns(matrix, steps=5):
    """Newton-Schulz on the singular values alone: U p(p(...S...)) V^T, by torch.linalg.svd."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ s.diag() @ v


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_newton_schulz_moves_singular_values_alone_and_to_about_1(shape):
    matrix = draw(shape, 0)
    found = newton_schulz(matrix)
    assert torch.allclose(found, ns(matrix), rtol=1e-8, atol=1e-10)
    values = torch.linalg.svdvals(newton_schulz(torch.linalg.qr(matrix)[0]))
    assert 0.68 < values.min() and values.max() < 1.14
    assert torch.allclose(newton_schulz(1e5 * matrix), found, rtol=1e-10)
    assert torch.equal(newton_schulz(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(64, 200), (200, 64), (64, 64)])
def test_newton_schulz_of_a_matrix_of_low_rank_is_exact_where_muons_is_not(shape):
    matrix = (draw((shape[0], 4), 1) @ draw((4, shape[1]), 2)).float()
    exact = ns(matrix.double())
    theirs = torch.optim._muon._zeropower_via_newtonschulz(
        matrix, (3.4445, -4.7750, 2.0315), ns_steps=5, eps=1e-7
    )
    errors = [(x.double() - exact).norm() / exact.norm() for x in (newton_schulz(matrix), theirs)]
    assert errors[0] < 1e-3 and errors[1] > 0.1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("period", [1, 3, 4])
def test_the_paper_form_is_algorithm_1(shape, period):
    lr, b1, b2, b3, a, eps = 0.02, 0.9, 0.5, 0.7, 0.6, 1e-3
    p, grads = nn.Parameter(draw(shape, 0)), gradients(shape)
    w = p.detach().clone().reshape(shape[0], -1)
    m1, m2, v = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
    since = [g.reshape(w.shape) for g in grads]
    for t, g in enumerate(since):
        if t % period == 0:  # at the start of chunk k: the gradients of chunk k - 1
            m2 = m2 + b3 * sum(since[max(t - period, 0) : t], torch.zeros_like(w))
            o2 = ns(m2) if t else torch.zeros_like(w)
        m1, v = m1 + b1 * g, v + b2 * g**2
        w = w - lr * (ns(m1) + a * o2) / (v.sqrt() + eps)
    optimizer = M3([p], lr, (b1, b2), b3, a, period, form="paper", eps=eps)
    assert torch.allclose(run(optimizer, p, grads), w.reshape(shape), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_averaged_form_is_algorithm_1_with_averages_and_muons_size(shape):
    lr, b1, b2, b3, a, eps, floor, period = 0.02, 0.9, 0.95, 0.7, 0.6, 1e-3, 0.3, 4
    p, grads = nn.Parameter(draw(shape, 0)), gradients(shape)
    w = p.detach().clone().reshape(shape[0], -1)
    since = [g.reshape(w.shape) for g in grads]
    m2, o2 = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(len(since)):
        if t and t % period == 0:
            m2 = b3 * m2 + (1 - b3) * sum(since[t - period : t]) / period
            o2 = ns(m2)
        weights = torch.tensor([b1 ** (t - i) for i in range(t + 1)])
        m1 = sum(c * g for c, g in zip(weights / weights.sum(), since))  # bias-corrected average
        weights = torch.tensor([b2 ** (t - i) for i in range(t + 1)], dtype=torch.float64)
        v = sum(c * g**2 for c, g in zip(weights / weights.sum(), since))
        o1 = ns(m1)
        step = (o1 + a * o2) / (v.sqrt() + floor * v.mean().sqrt() + eps)
        w = w - lr * 0.2 * math.sqrt(max(w.shape)) * step * o1.norm() / step.norm()
    optimizer = M3([p], lr, (b1, b2), b3, a, period, eps=eps, floor=floor)
    assert torch.allclose(run(optimizer, p, grads), w.reshape(shape), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ns_dtype", [None, torch.float32])
@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_reduced_it_is_muon(shape, ns_dtype):
    p, q = (nn.Parameter(draw(shape, 0).float()) for _ in range(2))
    grads = [g.float() for g in gradients(shape)]
    settings = {"slow_weight": 0, "second_moment": False, "ns_dtype": ns_dtype}
    ours = M3([p], 0.1, (0.95, 0.999), **settings)
    muon = {"momentum": 0.95, "nesterov": False, "weight_decay": 0}
    theirs = torch.optim.Muon([q], 0.1, adjust_lr_fn="match_rms_adamw", **muon)
    for grad in grads:
        before = p.detach().clone(), q.detach().clone()
        run(ours, p, [grad])
        run(theirs, q, [grad])
        moves = p.detach() - before[0], q.detach() - before[1]
        # bfloat16 has 8 bits, and small singular values grow by 3.4 a step
        assert (moves[0] - moves[1]).norm() < 0.05 * moves[1].norm()
    assert set(ours.state[p]) == {"step", "fast"}


def test_float32_weights_are_orthogonalised_in_bfloat16_and_others_in_their_own_dtype(monkeypatch):
    monkeypatch.setattr("nested.optim.m3.fast_dtype", lambda device: torch.bfloat16)
    moves = {}
    for dtype in (torch.float64, torch.float32):
        for ns_dtype in (None, torch.bfloat16, torch.float32, torch.float64):
            p = nn.Parameter(draw((8, 24), 0).to(dtype))
            settings = {"slow_weight": 0, "second_moment": False, "ns_dtype": ns_dtype}
            moves[dtype, ns_dtype] = run(M3([p], 1.0, **settings), p, [draw((8, 24), 1).to(dtype)])
    exact = draw((8, 24), 0) - 0.2 * math.sqrt(24) * ns(draw((8, 24), 1))
    assert torch.equal(moves[torch.float32, None], moves[torch.float32, torch.bfloat16])
    assert torch.equal(moves[torch.float64, None], moves[torch.float64, torch.float64])
    assert (moves[torch.float64, None] - exact).norm() < 1e-10
    assert (moves[torch.float32, torch.float32] - exact).norm() < 1e-4
    assert (moves[torch.float32, None] - exact).norm() > 1e-3


def test_vectors_take_the_adamw_rule_bit_for_bit():
    pairs = [[nn.Parameter(draw(shape, 0)) for shape in ((5,), ())] for _ in range(2)]
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    for params, make in zip(pairs, (M3, torch.optim.AdamW)):
        optimizer = make(params, **settings)
        for k in range(5):
            for p in params:
                p.grad = draw(p.shape, k)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(*pairs))


def test_it_differs_from_muon_by_the_slow_direction_and_only_after_a_chunk():
    p, q = (nn.Parameter(draw((5, 5), 0)) for _ in range(2))
    grads = gradients((5, 5), 5)
    ours = M3([p], 0.1, slow_weight=0.5, period=4, form="paper", second_moment=False)
    muon = M3([q], 0.1, slow_weight=0, form="paper", second_moment=False)
    assert torch.equal(run(ours, p, grads[:4]), run(muon, q, grads[:4]))
    apart = run(muon, q, grads[4:]) - run(ours, p, grads[4:])
    assert torch.allclose(apart, 0.1 * 0.5 * ns(0.9 * sum(grads[:4])), rtol=1e-8)


def test_weight_decay_is_decoupled():
    p, q = (nn.Parameter(draw((4, 6), 0)) for _ in range(2))
    run(M3([p], 0.1, weight_decay=0.5), p, gradients((4, 6), 1))
    run(M3([q], 0.1), q, gradients((4, 6), 1))
    assert torch.allclose(p, q - 0.1 * 0.5 * draw((4, 6), 0), rtol=1e-10)


def test_the_slow_memory_remembers_what_the_fast_one_forgot():
    old, new = draw((6, 6), 1), draw((6, 6), 2)
    p = nn.Parameter(torch.zeros(6, 6).double())
    optimizer = M3([p], 0.1, (0.5, 0.999), slow_beta=0.9, period=5)
    run(optimizer, p, [old] * 50 + [new] * 10)

    def along(name):
        memory = optimizer.state[p][name]
        return abs((memory * old).sum() / (memory.norm() * old.norm()) - (old * new).sum() / 36)

    assert along("slow") > 0.5 and along("fast") < 0.3


def test_steps_do_not_grow_while_gradients_shrink():
    """Orthogonalised, a gradient has no scale; divided by sqrt V, steps would grow like 1 / g."""

    def growth(make):
        p = nn.Parameter(torch.zeros(6, 6).double())
        optimizer = make([p])
        sizes = []
        for k in range(60):
            before = p.detach().clone()
            run(optimizer, p, [0.8**k * draw((6, 6), 1)])
            sizes.append((p.detach() - before).norm())
        return sizes[-1] / sizes[0]

    class Unscaled(torch.optim.Optimizer):
        """NS(g) / sqrt V, with V Adam's."""

        def step(self):
            (p,) = self.param_groups[0]["params"]
            v = self.state[p].setdefault("v", torch.zeros_like(p))
            v.mul_(0.9).addcmul_(p.grad, p.grad, value=0.1)
            p.data -= 0.1 * ns(p.grad) / v.sqrt()

    assert growth(lambda params: M3(params, 0.1, (0.9, 0.9))) < 1.5
    assert growth(lambda params: Unscaled(params, {})) > 5


def test_the_size_of_a_step_does_not_depend_on_the_gradients_scale():
    moves = []
    for scale in (1e-4, 1.0, 1e4):
        p = nn.Parameter(torch.zeros(6, 9).double())
        moves.append(run(M3([p], 0.1, eps=0), p, [scale * g for g in gradients((6, 9), 12)]))
    assert torch.allclose(moves[0], moves[1], rtol=1e-6)
    assert torch.allclose(moves[2], moves[1], rtol=1e-6)


def test_a_gradient_of_zero_moves_nothing():
    p = nn.Parameter(draw((4, 6), 0))
    before = p.detach().clone()
    assert torch.equal(run(M3([p], 0.1, period=2), p, [torch.zeros(4, 6).double()] * 5), before)


def test_wrong_settings_are_refused():
    p = nn.Parameter(torch.ones(3, 3))
    for wrong, said in (
        ({"betas": (0.9, 1.0)}, "betas are two numbers from 0 to below 1"),
        ({"betas": (0.9,)}, "betas are two numbers"),
        ({"form": "Paper"}, "form is one of"),
        ({"period": 0}, "period is a whole number from 1"),
        ({"slow_weight": -1}, "slow_weight is 0 or more, and finite, but got -1"),
        ({"betas": 0.9}, "betas are two numbers"),
        ({"ns_steps": 2.5}, "ns_steps is a whole number, but got 2.5"),
        ({"ns_dtype": "bfloat16"}, "ns_dtype is one of .*, but got 'bfloat16'"),
        ({"ns_dtype": torch.float8_e4m3fn}, "ns_dtype is one of"),
        ({"betas": ("a", 0.9)}, "betas are two numbers"),
        ({"betas": (None, 0.9)}, "betas are two numbers"),
        ({"second_moment": "no"}, "second_moment is True or False, but got 'no'"),
        ({"ns_steps": True}, "ns_steps is"),
        ({"lr": "0.1"}, "lr is 0 or more, and finite, but got '0.1'"),
        ({"ns_steps": 200}, "ns_steps is 0 or more, and below 100, but got 200"),
    ):
        with pytest.raises(ValueError, match=said):
            M3([p], **{"lr": 0.1, **wrong})


def test_weights_that_hardly_get_a_gradient_do_not_take_all_of_the_step():
    """One column a thousand times smaller than the others: it would outweigh them in O / sqrt V."""
    grads = gradients((6, 6), 30)
    for g in grads:
        g[:, 0] *= 1e-3 * (g[:, 1] > 0)
    shares = []
    for floor in (0.0, 1.0):
        p = nn.Parameter(torch.zeros(6, 6).double())
        moved = run(M3([p], 0.1, slow_weight=0, eps=1e-12, floor=floor), p, grads)
        shares.append((moved[:, 0].norm() / moved.norm()).item())
    assert shares[0] > 0.8 and shares[1] < 0.3


def test_a_slow_clock_of_one_step_in_the_averaged_form_is_an_average_of_every_gradient():
    p, grads, b3 = nn.Parameter(draw((5, 5), 0)), gradients((5, 5), 6), 0.7
    optimizer = M3([p], 0.1, slow_beta=b3, period=1)
    run(optimizer, p, grads)
    average = torch.zeros(5, 5).double()
    for g in grads:
        average = b3 * average + (1 - b3) * g
    assert torch.allclose(optimizer.state[p]["slow"], average, rtol=1e-12)


def test_newton_schulz_takes_any_scale_and_stays_with_its_dtype():
    matrix = draw((4, 9), 0)
    for scale in (1e-30, 1e30):
        found = newton_schulz((scale * matrix).float())
        assert torch.allclose(found.double(), ns(matrix), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"newton_schulz takes matrices \(R, C\), but got \(3,\)"):
        newton_schulz(torch.zeros(3))


@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (8, 8)])
def test_newton_schulz_in_half_precision_is_right_to_that_precision(shape):
    matrix = draw(shape, 0)
    found = newton_schulz(matrix.bfloat16()).double()
    assert (found - ns(matrix)).norm() < 0.05 * ns(matrix).norm()


@pytest.mark.parametrize("dtype, eps", [(torch.float32, 0.0), (torch.float16, 1e-8)])
def test_no_gradient_and_small_gradients_give_numbers(dtype, eps):
    for scale in (0.0, 1e-4):
        p = nn.Parameter(torch.ones(3, 4, dtype=dtype))
        assert (
            run(M3([p], 0.1, eps=eps), p, [scale * torch.ones(3, 4, dtype=dtype)]).isfinite().all()
        )
