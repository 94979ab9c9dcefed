"""K differentiable inner steps of T tasks at once.

Letters: T tasks, K inner steps. The tasks share the loss and the rule; their weights, state and
batches are stacked along a leading dimension. The loop is ``eager``'s own: ``torch.vmap`` turns the
loss and the rule of one task into those of T tasks. Source: ``torch.vmap``, PyTorch's form of
JAX's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nested.levels.detach import detached
from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import Step, UpdateRule
from nested.support.autograd import (
    has_inference_tensors,
    in_transform,
    outside_inference,
    with_autograd,
)
from nested.unroll.dispatch import check_backend, unroll
from nested.unroll.inputs import check_data, check_inputs, check_state, with_horizon
from nested.unroll.over_tasks import over_tasks, pick_task, set_beside, stack_tasks
from nested.unroll.registry import BACKENDS, loss_over_tasks
from nested.unroll.trajectory import Trajectory
from nested.unroll.transforms import InTransform


def unroll_tasks(
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
    """``nested.unroll`` for T tasks: the same arguments, each tensor with a leading T.

    ``loss_fn`` and ``rule`` are those of one task, and no task affects another. Returns a
    ``Trajectory`` with params {name: (T, ...)}, a state of tensors (T, ...), losses (T, K) and
    signals {name: (T, K, ...)}. The backend "higher" takes the tasks one after another. Raises what
    ``unroll`` raises, and ``ValueError`` when the parts do not agree on T.
    """
    check_backend(backend)
    check_inputs(params, batches, rule)
    count = _count_tasks((params, batches, state))
    options = {"differentiable": differentiable, "first_order": first_order}
    if backend == "higher":  # which knows no tasks
        each = [pick_task((params, batches, state), task) for task in range(count)]
        runs = [unroll(loss_fn, p, b, rule, s, backend=backend, **options) for p, b, s in each]
        with torch.set_grad_enabled(differentiable):
            return stack_tasks(runs)
    first = over_tasks(with_horizon(rule, len(batches)).init)(params)
    state = first if state is None else state
    check_state(state, first)
    if not differentiable:
        params, state = detached((params, state))
    losses = loss_over_tasks(loss_fn, params)
    losses = InTransform(losses, dims=1) if in_transform() else losses
    try:
        with with_autograd(rule):  # each backend turns it off where it is not wanted
            if has_inference_tensors((params, batches[0], state)):
                params, batches, state = outside_inference((params, batches, state))
            trajectory = BACKENDS[backend](
                losses, params, batches, rule_of_tasks(rule), state, time_dim=1, **options
            )
    except RuntimeError:
        loss_fn(*pick_task((params, batches[0]), 0))  # one task's error has plainer words
        raise
    check_data(batches, (trajectory.losses, trajectory.params))
    return trajectory


def rule_of_tasks(rule: UpdateRule) -> UpdateRule:
    """Return a rule that moves T tasks, all its tensors (T, ...). It is ``rule`` itself, if the
    class that defines its ``forward`` sets ``takes_tasks``, else one by ``torch.vmap``."""
    return rule if set_beside(type(rule), "forward", "takes_tasks") else _ByVmap(rule)


class _ByVmap(UpdateRule):
    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule
        self.batched = over_tasks(rule)

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        return self.batched(params, grads, state, loss)


def _count_tasks(parts: Any) -> int:
    shapes = {tuple(leaf.shape[:1]) for leaf in tree_leaves(parts) if torch.is_tensor(leaf)}
    if len(shapes) != 1 or shapes <= {(), (0,)}:
        sizes = ", ".join(sorted(str(shape[0]) if shape else "none" for shape in shapes))
        raise ValueError(
            "tensors in params, batches and state need the same leading task dimension, but the"
            f" sizes found are: {sizes}"
        )
    return shapes.pop()[0]
