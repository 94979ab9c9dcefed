"""One move of level 4: K-step unroll -> meta-loss -> hypergradient -> clip -> Adam.

Letters: T tasks, K inner steps. Source: Andrychowicz et al. 2016 (arXiv 1606.04474).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nested.levels.detach import detached
from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import UpdateRule
from nested.meta.config import MetaConfig
from nested.meta.objective import meta_loss
from nested.unroll.batched import unroll_tasks

WEIGHT_DECAY = 1e-4


class MetaStepResult(NamedTuple):
    """What one meta-step leaves, outside every graph."""

    params: Params  # {name: (T, ...)}, after K inner steps
    state: State  # the rule's, after K inner steps
    loss: Tensor  # (), the meta-loss
    norm: Tensor  # (), length of the hypergradient before clipping, in loss per unit of rule
    signals: dict[str, Tensor]  # {name: ()}, mean over tasks and steps


class MetaStep:
    """Moves ``rule``, in place, by Adam with the settings of ``config``.

    A meta-loss or hypergradient that is not finite moves nothing. Raises ``ValueError`` for a rule
    with nothing to learn.
    """

    def __init__(self, rule: UpdateRule, config: MetaConfig) -> None:
        self.rule, self.config = rule, config
        self.learned = [p for p in rule.parameters() if p.requires_grad]
        if not self.learned:
            raise ValueError("the rule has no parameters to learn, so meta-training has no work")
        self.optimizer = torch.optim.AdamW(self.learned, config.lr, weight_decay=WEIGHT_DECAY)

    def set_rate(self, lr: float) -> None:
        """Set Adam's learning rate for the next moves."""
        self.optimizer.param_groups[0]["lr"] = lr

    def __call__(
        self, loss_fn: LossFn, params: Params, state: State, batches: list[Batch], query: Batch
    ) -> MetaStepResult:
        """Unroll T inner runs from ``params`` {name: (T, ...)} through K ``batches`` (T, ...),
        score them on ``query``, and move the rule once. Raises what ``unroll_tasks`` does, and
        ``ValueError`` when the meta-loss has no gradient."""
        result, grads = self.estimate(loss_fn, params, state, batches, query)
        norm = self.clip(grads)
        if torch.isfinite(norm) and torch.isfinite(result.loss):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return result._replace(norm=norm)

    def estimate(
        self, loss_fn: LossFn, params: Params, state: State, batches: list[Batch], query: Batch
    ) -> tuple[MetaStepResult, tuple[Tensor | None, ...]]:
        """Return where K steps from ``params`` {name: (T, ...)} lead, and the hypergradient, in the
        order of ``self.learned``. Raises what ``unroll_tasks`` does."""
        backend, objective = self.config.backend, self.config.objective
        trajectory = unroll_tasks(loss_fn, params, batches, self.rule, state, backend=backend)
        loss = meta_loss(loss_fn, trajectory, query, objective)
        grads = torch.autograd.grad(loss, self.learned, allow_unused=True)
        means = {name: s.detach().float().mean() for name, s in trajectory.signals.items()}
        end = detached((trajectory.params, trajectory.state))
        return MetaStepResult(*end, loss.detach(), loss.new_zeros(()), means), grads

    def begin(self) -> None:
        """Prepare for new runs. Evolution strategies forget earlier perturbations here."""

    def clip(self, grads: tuple[Tensor | None, ...]) -> Tensor:
        """Hand Adam the hypergradient ``grads`` (...), clipped. Returns its length before that, ().
        Raises ``ValueError`` where no parameter has a part in the meta-loss."""
        if all(grad is None for grad in grads):
            raise ValueError("the meta-loss does not depend on the rule: is a signal detached?")
        for parameter, grad in zip(self.learned, grads, strict=True):
            parameter.grad = grad
        return torch.nn.utils.clip_grad_norm_(self.learned, self.config.clip)
