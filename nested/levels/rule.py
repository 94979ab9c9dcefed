"""Level 4's contract: the interface that every learned rule implements.

Source: learned update rules after Andrychowicz et al. 2016 (arXiv 1606.04474).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import Tensor, nn

from nested.levels.forward import Params, State


class Step(NamedTuple):
    """What a rule returns: the next weights, its next state, and what it chose at this step."""

    params: Params  # {name: (...)}, named and shaped as they came
    state: State
    signals: dict[str, Tensor]  # {name: (...)}, such as "lr" and "momentum": recorded and plotted


class UpdateRule(nn.Module):
    """Level 4: decides how the weights move. Meta-training learns its parameters.

    A rule is *pure*. ``forward`` changes none of its arguments and stores nothing in the module. So
    K steps can be differentiated, and a run can be continued from its state. Three attributes are
    conventions:

    - ``takes_tasks = True`` promises that ``forward`` itself moves T tasks, with a leading T in
      every tensor. Other rules are batched by ``torch.vmap``, which is slower.
    - ``needs_loss = False`` promises that the rule never reads the loss.
    - ``total_steps`` marks a rule that uses the length of a run; see ``for_horizon``.

    A replay of the rule's schedule (``nested.race``) needs the signals "lr" and "momentum".
    """

    takes_tasks = False
    needs_loss = True

    def for_horizon(self, total_steps: int) -> UpdateRule:
        """Return a copy that knows how long runs will be. The copy shares the parameters.

        A rule without the attribute ``total_steps`` returns itself. Raises ``ValueError`` for less
        than one step.
        """
        if not isinstance(total_steps, int) or total_steps < 1:
            raise ValueError(f"total_steps is a whole number from 1, but got {total_steps!r}")
        if not hasattr(self, "total_steps"):
            return self
        informed = copy.copy(self)
        informed.total_steps = total_steps
        return informed

    def init(self, params: Params) -> State:
        """Return the state before the first step: nested dicts of tensors (...), on the device of
        ``params`` {name: (...)}. Raises ``NotImplementedError`` where a rule lacks it."""
        raise NotImplementedError

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        """Make one step from ``params`` {name: (...)} and their gradients ``grads`` {name: (...)}.

        ``loss``, (), was computed at ``params``. The params and the state in the returned ``Step``
        keep names, shapes and dtypes. Raises ``NotImplementedError`` where a rule lacks it.
        """
        raise NotImplementedError
