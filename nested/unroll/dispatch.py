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
from nested.unroll.checkpointed import unroll_checkpointed
from nested.unroll.compiled import unroll_compiled
from nested.unroll.eager import unroll_eager
from nested.unroll.inputs import check_data, check_inputs, check_state, told_of
from nested.unroll.plain_nets import faster
from nested.unroll.trajectory import Trajectory
from nested.unroll.via_higher import unroll_via_higher

BACKENDS = {
    "eager": unroll_eager,
    "higher": unroll_via_higher,
    "checkpoint": unroll_checkpointed,
    "compile": unroll_compiled,
}


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
    """Make K moves of ``rule`` on ``params``, one per batch, in a graph the level above can use.

    ``loss_fn(params, batch)`` is a scalar, (); ``params`` {name: (...)} are the initial weights;
    ``batches`` is a list of K batches; ``state`` is the rule's, ``rule.init(params)`` by default,
    or ``trajectory.state`` to go on (a rule that is to know its horizon and does not takes K for
    it). None of these is changed. The ``Trajectory``, with losses (K,)
    and signals {name: (K, ...)}, differentiates with respect to the rule's parameters, the initial
    weights and the initial state.

    ``differentiable=False`` is a cheap roll-out: everything comes back detached (this flag
    decides, not ``torch.no_grad``). With ``first_order=True`` inner gradients are constants to the
    outer one, as in FOMAML; the loss that the rule sees is not. ``backend`` is "eager";
    "checkpoint", which keeps about sqrt(2 K) steps in memory; "compile", fastest once compiled; or
    "higher", a cross-check: see the files of these names.

    Raises ``TypeError`` or ``ValueError`` for parts of the wrong kind, and for data that are not
    finite where they reach a loss or a weight; ``RuntimeError``, PyTorch's own, for shapes or
    dtypes that do not match; ``ImportError`` without higher. A run that diverges on finite data is
    returned, infinities and all.
    """
    check_backend(backend)
    check_inputs(params, batches, rule)
    first = told_of(rule, len(batches)).init(params)
    state = first if state is None else state
    check_state(state, first)
    if not differentiable:
        params, state = detached((params, state))
    with with_autograd(rule):  # each backend turns it off where it is not wanted
        if has_inference_tensors((params, batches[0], state)):
            params, batches, state = outside_inference((params, batches, state))
        trajectory = BACKENDS[backend](
            loss_fn if backend == "higher" else faster(loss_fn, params),
            params,
            batches,
            rule,
            state,
            differentiable=differentiable,
            first_order=first_order,
        )
    check_data(batches, (trajectory.losses, trajectory.params))
    return trajectory


def check_backend(backend: str) -> None:
    """Raise ``ValueError`` unless there is such a backend, and it can run where the caller is."""
    if backend in BACKENDS and backend != "eager" and in_transform():
        raise ValueError(
            f"the backend {backend!r} does not run inside torch.func or forward-mode transforms:"
            " use backend='eager'"
        )
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; choose one of {sorted(BACKENDS)}")
