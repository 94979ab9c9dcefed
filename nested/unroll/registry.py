"""Where faster rooms attach themselves: backends by name, and faster forms of a loss.

Letters: T tasks. Source: the contracts of ``nested.levels``: nothing here is mathematics.
"""

from __future__ import annotations

from collections.abc import Callable

from nested.levels.forward import LossFn, Params
from nested.unroll.over_tasks import over_tasks
from nested.unroll.trajectory import Trajectory

Backend = Callable[..., Trajectory]  # called as nested.unroll.eager.unroll_eager
FasterLoss = Callable[[LossFn, Params, bool], LossFn | None]

BACKENDS: dict[str, Backend] = {}
FASTER_LOSSES: list[FasterLoss] = []


def register_backend(name: str, backend: Backend) -> None:
    """Let ``unroll(..., backend=name)`` run ``backend``, called as ``unroll_eager`` is."""
    BACKENDS[name] = backend


def register_faster_loss(make: FasterLoss) -> None:
    """Let every unroll ask ``make(loss_fn, params, has_tasks)`` for a faster form of a loss.

    ``make`` returns None where it has no faster form. Else it returns a loss with the same values,
    which may offer ``with_gradient(params, batch)``. With ``has_tasks`` that loss takes T tasks,
    all tensors (T, ...), and returns their losses (T,).
    """
    FASTER_LOSSES.append(make)


def faster_loss(loss_fn: LossFn, params: Params) -> LossFn:
    """Return the fastest known form of ``loss_fn`` at weights like ``params`` {name: (...)}."""
    forms = (make(loss_fn, params, False) for make in FASTER_LOSSES)
    return next((form for form in forms if form is not None), loss_fn)


def loss_over_tasks(loss_fn: LossFn, params: Params) -> LossFn:
    """Return the losses of T tasks, (T,), as a function of params {name: (T, ...)} and a batch (T,
    ...). ``loss_fn`` is that of one task."""
    forms = (make(loss_fn, params, True) for make in FASTER_LOSSES)
    return next((form for form in forms if form is not None), None) or over_tasks(loss_fn)
