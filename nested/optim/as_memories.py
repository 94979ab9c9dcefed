"""Momentum and Adam *are* memories: each minimises an objective over past gradients.

Letters: K gradients, in order of time.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 10-13 and 33-34 (momentum), 101-105 (Adam).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def momentum_objective(
    memory: Tensor, before: Tensor, grad: Tensor, momentum: float = 1.0, lr: float = 1.0
) -> Tensor:
    """Compute ``-<m, g> + 1/(2n) |m - a m_t|^2``, (), for a memory m, the previous memory m_t and
    a gradient g, (...) each.

    Its minimiser is ``a m_t + n g``. This memory stores no values: it only agrees with the gradient
    and stays near its previous state. Eq. 13 has a = 1; a < 1 comes from an l2 penalty (33-34).
    With n = 1 the minimiser is the buffer of ``torch.optim.SGD``.
    """
    return -(memory * grad).sum() + (memory - momentum * before).square().sum() / (2 * lr)


def regression_objective(
    memory: Tensor,
    gradients: Tensor,
    target: Tensor,
    betas: tuple[float, float],
    ridge: Tensor | float = 0.0,
) -> Tensor:
    """Compute ``sum_i w_i (m g_i - P)^2 + l m^2`` (eq. 101), summed over coordinates, (), without
    the term that does not depend on m.

    An element-wise memory m (...) learns to map each of the ``gradients`` (K, ...) to one global
    property P (...) of them. The weights w_i sum to 1 and decay as ``beta^(K - i)``. Terms linear
    in m use the first of ``betas``, squared terms the second (eq. 102).

    For P = ``energy`` and l = 0 the minimiser is bias-corrected momentum (104). For the root of
    ``energy`` it is Adam's direction (105), and ``l = eps P`` gives its eps. Raises
    ``RuntimeError`` for shapes that do not fit.
    """
    linear, squared = (_average(x, beta) for x, beta in zip((gradients, gradients**2), betas))
    return (squared * memory**2 - 2 * linear * target * memory + ridge * memory**2).sum()


def energy(gradients: Tensor, beta: float) -> Tensor:
    """Average the squares of ``gradients`` (K, ...) with weights that decay as ``beta^(K - i)``.

    Returns Adam's bias-corrected second moment (...). Source: eq. 102, H.
    """
    return _average(gradients**2, beta)


def minimise(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Minimise a smooth convex ``objective(memory) -> ()`` numerically, from ``start`` (...).

    Returns the minimiser (...). L-BFGS does not use the formula of any optimizer. Source: Liu and
    Nocedal 1989, as in ``torch.optim.LBFGS``.
    """
    memory = nn.Parameter(start.clone())
    solver = torch.optim.LBFGS(
        [memory],
        max_iter=500,
        tolerance_grad=1e-14,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = objective(memory)
        loss.backward()
        return loss

    solver.step(closure)
    return memory.detach()


def read_as_memories(
    gradients: Tensor, momentum: float = 0.9, betas: tuple[float, float] = (0.9, 0.999)
) -> dict[str, float]:
    """Compare the states of ``torch.optim.SGD`` and ``Adam`` with memories that ``minimise`` finds.

    Both see the same ``gradients`` (K, ...). Each coordinate is first scaled to a largest entry of
    1, so that ``minimise`` is as accurate for small ones. Returns the largest differences for
    "momentum" and "Adam", as a share of the largest entry: rounding errors.

    Raises ``ValueError`` for gradients that are all zero or not finite, and for a momentum that is
    not between 0 and 1. Source: eq. 13 and 105.
    """
    largest = gradients.detach().abs().amax(dim=0)
    if not (largest.isfinite().all() and largest.any() and 0 < momentum < 1):
        raise ValueError("gradients are finite and not all zero, and momentum is between 0 and 1")
    gradients = gradients.detach() / largest.where(largest > 0, 1.0)
    weights = [nn.Parameter(torch.zeros_like(gradients[0])) for _ in range(2)]
    sgd = torch.optim.SGD(weights[:1], lr=1.0, momentum=momentum)
    adam = torch.optim.Adam(weights[1:], lr=1.0, betas=betas)
    memory = torch.zeros_like(gradients[0])
    for grad in gradients:
        for p in weights:
            p.grad = grad.clone()
        last = weights[1].detach().clone()
        sgd.step()
        adam.step()
        memory = minimise(lambda m: momentum_objective(m, memory, grad, momentum), memory)
    root = energy(gradients, betas[1]).sqrt()
    ridge = adam.defaults["eps"] * root
    regression = minimise(
        lambda m: regression_objective(m, gradients, root, betas, ridge), torch.zeros_like(root)
    )
    pairs = {
        "momentum": (memory, sgd.state[weights[0]]["momentum_buffer"]),
        "Adam": (regression, last - weights[1].detach()),
    }
    return {n: ((a - b).abs().max() / b.abs().max()).item() for n, (a, b) in pairs.items()}


def _average(values: Tensor, beta: float) -> Tensor:
    ages = torch.arange(len(values) - 1, -1, -1, dtype=values.dtype, device=values.device)
    weights = beta**ages
    return torch.tensordot(weights / weights.sum(), values, dims=1)
