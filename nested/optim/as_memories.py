"""Momentum and Adam *are* memories: each is the minimiser of an objective over past gradients.

Letters: K gradients, in the order they came.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 10-13 and 33-34 (momentum), 101-105 (Adam).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def momentum_objective(
    memory: Tensor, before: Tensor, grad: Tensor, momentum: float = 1.0, lr: float = 1.0
) -> Tensor:
    """``-<m, g> + 1/(2n) |m - a m_t|^2``, (), for a memory m, the one before and a gradient, (...).

    Its minimiser is ``a m_t + n g``: a memory without values, which only has to agree with the
    gradient and to stay near what it was. Eq. 13 is a = 1; a < 1 is its l2 penalty (33-34). With n
    = 1 it is the buffer of ``torch.optim.SGD``.
    """
    return -(memory * grad).sum() + (memory - momentum * before).square().sum() / (2 * lr)


def regression_objective(
    memory: Tensor,
    gradients: Tensor,
    target: Tensor,
    betas: tuple[float, float],
    ridge: Tensor | float = 0.0,
) -> Tensor:
    """``sum_i w_i (m g_i - P)^2 + l m^2`` (eq. 101), summed over coordinates, (); without the term
    that m has no part in. An element-wise memory m (...) is to map each of the ``gradients``
    (K, ...) to one global property P (...) of them.

    The weights w_i, which sum to 1, fall as ``beta^(K - i)``: by the first of ``betas`` where m is
    linear, by the second where it is squared (eq. 102). The minimiser for P = ``energy`` and l = 0
    is the average of the gradients, bias-corrected momentum (104); for its root it is Adam's
    direction (105), eps and all with ``l = eps P``. Raises ``RuntimeError`` for shapes that do not
    fit.
    """
    linear, squared = (_average(x, beta) for x, beta in zip((gradients, gradients**2), betas))
    return (squared * memory**2 - 2 * linear * target * memory + ridge * memory**2).sum()


def energy(gradients: Tensor, beta: float) -> Tensor:
    """The average of the squares of ``gradients`` (K, ...), (...), with weights that fall as
    ``beta^(K - i)``: Adam's second moment, bias-corrected. Source: eq. 102, H."""
    return _average(gradients**2, beta)


def minimise(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimiser (...) of a smooth convex ``objective(memory) -> ()``, found numerically from
    ``start`` (...) by L-BFGS: it knows nothing of optimizers' formulas. Source: Liu and Nocedal
    1989, as in ``torch.optim.LBFGS``."""
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
    """Feed ``gradients`` (K, ...) to ``torch.optim.SGD`` and ``Adam``, and compare what they hold
    with memories found by ``minimise`` alone. Each coordinate is brought to a largest entry of 1
    first, so that the minimiser is found as well for small ones. Returns the largest differences,
    as a share of the largest entry, for "momentum" and "Adam": rounding errors. Raises
    ``ValueError`` for gradients that are all zero or not finite, or a momentum that is not between
    0 and 1. Source: eq. 13 and 105."""
    largest = gradients.detach().abs().amax(dim=0)
    if not (largest.isfinite().all() and largest.any() and 0 < momentum < 1):
        raise ValueError("gradients are finite, some not zero, and momentum is between 0 and 1")
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
    found = minimise(
        lambda m: regression_objective(m, gradients, root, betas, ridge), torch.zeros_like(root)
    )
    pairs = {
        "momentum": (memory, sgd.state[weights[0]]["momentum_buffer"]),
        "Adam": (found, last - weights[1].detach()),
    }
    return {n: ((a - b).abs().max() / b.abs().max()).item() for n, (a, b) in pairs.items()}


def _average(values: Tensor, beta: float) -> Tensor:
    ages = torch.arange(len(values) - 1, -1, -1, dtype=values.dtype, device=values.device)
    weights = beta**ages
    return torch.tensordot(weights / weights.sum(), values, dims=1)
