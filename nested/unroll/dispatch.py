"""``unroll``: one door to all backends, which return the same numbers.

Letters: K inner steps. Source: Maclaurin et al. 2015 (arXiv 1502.03492), learning by
hypergradients; Finn et al. 2017 (MAML, arXiv 1703.03400), whose first-order form is
``first_order``.
"""

from __future__ import annotations

from collections.abc import Sequence

from nested.levels.detach import detached
from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import UpdateRule
from nested.support.autograd import (
    has_inference_tensors,
    in_transform,
    outside_inference,
    with_autograd,
)
from nested.unroll.eager import unroll_eager
from nested.unroll.inputs import check_data, check_inputs, check_state, with_horizon
from nested.unroll.registry import BACKENDS, faster_loss, register_backend
from nested.unroll.trajectory import Trajectory
from nested.unroll.transforms import InTransform
from nested.unroll.via_higher import unroll_via_higher

register_backend("eager", unroll_eager)
register_backend("higher", unroll_via_higher)


def unroll(
    loss_fn: LossFn,
    params: Params,
    batches: Sequence[Batch],
    rule: UpdateRule,
    state: State | None = None,
    *,
    backend: str = "eager",
    differentiable: bool = True,
    first_order: bool = False,
) -> Trajectory:
    """Make K steps of ``rule`` from ``params``, one per batch, and keep their graph.

    ``loss_fn(params, batch)`` returns a scalar, (). ``params`` {name: (...)} are the initial
    weights, and ``batches`` is a list of K batches. ``state`` is ``rule.init(params)`` by default;
    pass ``trajectory.state`` to go on. (If the rule needs the run's length and was not given it, K
    is assumed.) None of these is changed. The ``Trajectory``, with losses (K,) and signals {name:
    (K, ...)}, differentiates with respect to the rule's parameters, the initial weights and the
    initial state.

    ``differentiable=False`` is a cheap roll-out: everything comes back detached. This flag decides,
    not ``torch.no_grad``. With ``first_order=True`` inner gradients are constants to the outer one,
    as in FOMAML; the losses stay in the graph. ``backend`` is "eager"; "checkpoint", which
    keeps about sqrt(2 K) steps in memory; "compile", fastest once compiled; or "higher", a
    cross-check by another library.

    Raises ``TypeError`` or ``ValueError`` for parts of the wrong kind, and for data that are not
    finite and reach a loss or a weight. Shapes or dtypes that do not match raise PyTorch's own
    ``RuntimeError``, and "higher" raises ``ImportError`` where it is not installed. A run that
    diverges on finite data is returned, infinities and all.
    """
    check_backend(backend)
    check_inputs(params, batches, rule)
    first = with_horizon(rule, len(batches)).init(params)
    state = first if state is None else state
    check_state(state, first)
    if not differentiable:
        params, state = detached((params, state))
    if in_transform():
        loss_fn = InTransform(loss_fn)
    elif backend != "higher":  # which runs the model itself
        loss_fn = faster_loss(loss_fn, params)
    with with_autograd(rule):  # each backend turns it off where it is not wanted
        if has_inference_tensors((params, batches[0], state)):
            params, batches, state = outside_inference((params, batches, state))
        options = {"differentiable": differentiable, "first_order": first_order}
        trajectory = BACKENDS[backend](loss_fn, params, batches, rule, state, **options)
    check_data(batches, (trajectory.losses, trajectory.params))
    return trajectory


def check_backend(backend: str) -> None:
    """Raise ``ValueError`` unless there is such a backend, and it can run where the caller is."""
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; choose one of {sorted(BACKENDS)}")
    if backend != "eager" and in_transform():
        raise ValueError(
            f"the backend {backend!r} does not run inside torch.func or forward-mode transforms:"
            " use backend='eager'"
        )
