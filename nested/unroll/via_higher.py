"""The same K steps through the library ``higher``: a cross-check we did not write.

Source: Grefenstette et al. 2019 (arXiv 1910.01727), ``higher.innerloop_ctx``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from nested.levels.forward import Batch, FunctionalLoss, LossFn, Params, State, loss_of
from nested.levels.lend import copied, make_embeddings_dense, unchanged
from nested.levels.rule import UpdateRule
from nested.unroll.inputs import check_loss, check_step
from nested.unroll.trajectory import Trajectory, stack_trajectory


def unroll_via_higher(
    loss_fn: LossFn,
    params: Params,
    batches: Sequence[Batch],
    rule: UpdateRule,
    state: State,
    *,
    differentiable: bool = True,
    first_order: bool = False,
) -> Trajectory:
    """As ``unroll_eager``, but ``higher`` runs the model, keeps its buffers and moves its weights.

    Only lr and momentum come from ``rule``. So its signals must be the scalars ``lr`` and
    ``momentum``, and its state must keep the buffer under ``"momentum"``. The loss must be made by
    ``functional_loss``. Anything else raises ``TypeError``; a missing higher raises
    ``ImportError``. Returns losses (K,) and signals {name: (K,)}. The gradient is taken twice: once
    for the rule to see, once by ``higher``. So this is for checking, not for speed.
    """
    higher = _import_higher()
    _check_parts(loss_fn, params, batches, state)
    with unchanged(loss_fn.model.modules()):
        make_embeddings_dense(loss_fn.model.modules())
        return _steps(higher, loss_fn, params, batches, rule, state, differentiable, first_order)


def _steps(
    higher: ModuleType,
    loss_fn: LossFn,
    params: Params,
    batches: Sequence[Batch],
    rule: UpdateRule,
    state: State,
    differentiable: bool,
    first_order: bool,
) -> Trajectory:
    model, names = loss_fn.model, [name for name, _ in loss_fn.model.named_parameters()]
    inner_sgd = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)  # overridden at each step
    moving = [i for i, p in enumerate(model.parameters()) if p.requires_grad]
    losses, signals = [], []
    with higher.innerloop_ctx(model, inner_sgd, track_higher_grads=differentiable) as (fmodel, sgd):
        fmodel.update_params(_starting_weights(model, params, differentiable))
        buffers = sgd.state[0]  # {index: {"momentum_buffer": tensor}}
        for i in moving:
            buffers[i]["momentum_buffer"] = state["momentum"][names[i]]
        for batch in batches:
            fast = dict(zip(names, fmodel.fast_params, strict=True))
            loss = loss_of(fmodel, loss_fn.criterion, copied(batch))
            check_loss(loss, dims=0)
            trained = {names[i]: fast[names[i]] for i in moving}
            params = {name: w for name, w in fast.items() if name in params}
            grads = {name: torch.zeros_like(p) for name, p in params.items()}
            grads |= _gradients(loss, trained, create_graph=differentiable and not first_order)
            losses.append(loss if differentiable else loss.detach())
            with torch.set_grad_enabled(differentiable):
                step = rule(params, grads, state, losses[-1])
            check_step(step, params)
            chosen = _lr_and_momentum(step.signals)
            sgd.step(loss, override=chosen, grad_callback=_constants if first_order else None)
            _check_same(step.params, dict(zip(names, fmodel.fast_params, strict=True)))
            its_buffers = {names[i]: buffers[i]["momentum_buffer"] for i in moving}
            state = {**step.state, "momentum": {**step.state["momentum"], **its_buffers}}
            signals.append(step.signals)
        last = dict(zip(names, fmodel.fast_params, strict=True))
    params = {name: last[name] if differentiable else last[name].detach() for name in params}
    return stack_trajectory(params, state, losses, signals)


def _gradients(loss: Tensor, weights: Params, create_graph: bool) -> Params:
    grads = torch.autograd.grad(
        loss,
        tuple(weights.values()),
        create_graph=create_graph,
        retain_graph=True,
        materialize_grads=True,
    )
    return dict(zip(weights, grads, strict=True))


def _import_higher() -> ModuleType:
    try:
        import higher
    except ImportError as error:
        raise ImportError(
            "the higher backend needs `pip install higher`; or use 'eager'"
        ) from error
    return higher


def _check_parts(loss_fn: LossFn, params: Params, batches: Sequence[Batch], state: State) -> None:
    if type(loss_fn) is not FunctionalLoss:
        raise TypeError("the higher backend needs a loss made by functional_loss; use 'eager'")
    if not (isinstance(state, dict) and "momentum" in state):
        raise TypeError("the higher backend needs a rule that keeps state['momentum']; use 'eager'")
    loss_fn(params, batches[0])  # refuses what functional_loss refuses: names, pairs, buffers


def _starting_weights(model: torch.nn.Module, params: Params, differentiable: bool) -> list[Tensor]:
    start = []
    for name, parameter in model.named_parameters():
        weight = params.get(name, parameter)
        if not parameter.requires_grad:
            start.append(weight.detach())
        elif differentiable and weight.requires_grad:
            start.append(weight)
        else:
            start.append(weight.detach().requires_grad_())
    return start


def _lr_and_momentum(signals: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    if signals.keys() != {"lr", "momentum"} or any(s.dim() for s in signals.values()):
        raise TypeError(
            "the higher backend needs a rule whose signals are the scalars lr and momentum, but got"
            f" {({name: tuple(s.shape) for name, s in signals.items()})}; use 'eager'"
        )
    if signals["momentum"] == 0:
        raise TypeError("higher takes a momentum of exactly 0 for none at all; use 'eager'")
    return {name: [signal] for name, signal in signals.items()}


def _check_same(ours: Params, theirs: Params) -> None:
    for name, weight in ours.items():
        if not torch.allclose(weight, theirs[name], rtol=1e-4, atol=1e-6, equal_nan=True):
            raise TypeError(
                "the higher backend serves rules that move by momentum SGD with their signals, and"
                f" this one moved {name!r} otherwise; use 'eager'"
            )


def _constants(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if g is None else g.detach() for g in grads]
