"""Level 4's contract: what an update rule is. What it may see is in ``nested.levels.context``.

Source: learned update rules after Andrychowicz et al. 2016 (arXiv 1606.04474).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import Tensor, nn

from nested.levels.forward import Params, State


class Step(NamedTuple):
    """What a rule returns, all in the graph: the next weights, {name: (...)} as they came; the next
    state; and the signals it chose, {name: (...)}, to be shown and recorded."""

    params: Params
    state: State
    signals: dict[str, Tensor]


class UpdateRule(nn.Module):
    """Level 4: decides how the weights move. Its own parameters are what meta-training learns.

    A rule is *pure*: ``forward`` changes none of its arguments and hides nothing in the module, so
    that K moves can be differentiated, batched over tasks with ``torch.vmap``, and carried on. One
    that sets ``takes_tasks`` moves T tasks by itself, with a leading T in all that it takes and
    gives, which is faster; one that never looks at the loss sets ``needs_loss = False``.
    """

    takes_tasks = False
    needs_loss = True

    def for_horizon(self, total_steps: int) -> UpdateRule:
        """The rule, told that runs will have so many inner steps: a copy with the same parameters,
        if it has ``total_steps`` to be told. Raises ``ValueError`` for less than one step."""
        if not isinstance(total_steps, int) or total_steps < 1:
            raise ValueError(f"total_steps is a whole number from 1, but got {total_steps!r}")
        if not hasattr(self, "total_steps"):
            return self
        told = copy.copy(self)
        told.total_steps = total_steps
        return told

    def init(self, params: Params) -> State:
        """Return the state before the first step: nested dicts of tensors of any shapes, on the
        device of ``params`` {name: (...)}. Raises ``NotImplementedError`` where a rule lacks it."""
        raise NotImplementedError

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        """Make one move. ``grads`` is named and shaped as ``params`` {name: (...)}; ``loss``, (),
        was taken at ``params``. Returns a ``Step`` whose params and state keep names, shapes and
        dtypes. Raises ``NotImplementedError`` where a rule lacks it."""
        raise NotImplementedError
