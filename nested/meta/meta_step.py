"""One move of level 4: K-step unroll -> meta-loss -> hypergradient -> clip -> Adam.

Letters: T tasks, K inner steps. On a GPU the whole move is recorded once, as a CUDA graph, and then
replayed: its thousands of small operations are launched together, and none waits for the host.
Source: Andrychowicz et al. 2016 (arXiv 1606.04474); an Adam that skips what is not finite without
asking the host is that of ``torch.amp.GradScaler``.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from nested.levels.detach import detached
from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import UpdateRule
from nested.meta.config import MetaConfig
from nested.meta.objective import meta_loss
from nested.support.cuda_graph import Recorded
from nested.unroll.batched import unroll_tasks

RECORDABLE = ("eager", "compile")  # backends that never ask the device for a number


class Moved(NamedTuple):
    """What one move leaves, outside every graph."""

    params: Params  # {name: (T, ...)}, after K inner steps
    state: State  # the inner runs', likewise
    loss: Tensor  # (), the meta-loss
    norm: Tensor  # (), of the hypergradient before clipping, in loss per unit of rule
    signals: dict[str, Tensor]  # {name: ()}, mean over tasks and steps


class MetaStep:
    """Moves ``rule``, in place, by Adam with the settings of ``config``; not where meta-loss or
    hypergradient are not finite. Raises ``ValueError`` for a rule with nothing to learn.

    With ``waits``, the default on all but a GPU, the host looks at each number as it comes; without
    it the same is done on the device, and there recorded where the backend allows it.
    """

    def __init__(self, rule: UpdateRule, config: MetaConfig, waits: bool | None = None) -> None:
        self.rule, self.config = rule, config
        self.learned = [p for p in rule.parameters() if p.requires_grad]
        if not self.learned:
            raise ValueError("the rule has no parameters to learn, so meta-training has no work")
        device = self.learned[0].device
        self.waits = device.type != "cuda" if waits is None else waits
        self.records = device.type == "cuda" and not self.waits and config.backend in RECORDABLE
        self.recorded: dict[LossFn, Recorded] = {}  # the latest of each loss
        self.held = torch.zeros(
            (), dtype=torch.float32, device=device
        )  # 1 while the rule must not move
        own = {"weight_decay": config.weight_decay}
        if not self.waits:  # a rate that a recording reads anew each time, a step it can skip
            rate = torch.tensor(config.lr, dtype=torch.float32, device=device)
            own |= {"lr": rate, "fused": True, "capturable": True}
        self.optimizer = torch.optim.AdamW(self.learned, **{"lr": config.lr, **own})

    def set_rate(self, lr: float) -> None:
        """Set Adam's learning rate for the next moves."""
        group = self.optimizer.param_groups[0]
        if self.waits:
            group["lr"] = lr
        else:
            group["lr"].fill_(lr)

    def __call__(
        self, loss_fn: LossFn, params: Params, state: State, batches: list[Batch], query: Batch
    ) -> Moved:
        """Make one move on T inner runs at ``params`` {name: (T, ...)}, through K ``batches`` (T,
        ...), scored on ``query``. Raises what ``unroll_tasks`` does, and ``ValueError`` when the
        meta-loss has no gradient."""

        def move(*inputs: tuple) -> Moved:
            return self._move(loss_fn, *inputs)

        inputs = (params, state, batches, query)
        own_loss = getattr(loss_fn, "__func__", loss_fn)  # tasks of a family share theirs
        recorded = self.recorded.get(own_loss)
        if self.records and not (recorded and recorded.takes(inputs)):
            self.held.fill_(1)  # while the device warms up
            try:
                recorded = self.recorded[own_loss] = Recorded(move, inputs)
            except RuntimeError as error:
                self.records = False
                said = str(error).strip().splitlines()[0]
                warnings.warn(f"no CUDA graph, so every step is launched: {said}", stacklevel=2)
            finally:
                self.held.fill_(0)
        return recorded(*inputs) if self.records else move(*inputs)

    def _move(
        self, loss_fn: LossFn, params: Params, state: State, batches: list[Batch], query: Batch
    ) -> Moved:
        moved, grads = self.estimate(loss_fn, params, state, batches, query)
        norm = self._clip(grads)
        finite = torch.isfinite(norm) & torch.isfinite(moved.loss)
        if not self.waits:
            self.optimizer.found_inf = torch.where(finite, self.held, 1.0)
        if not self.waits or finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return moved._replace(norm=norm)

    def estimate(
        self, loss_fn: LossFn, params: Params, state: State, batches: list[Batch], query: Batch
    ) -> tuple[Moved, tuple[Tensor | None, ...]]:
        """Where K steps from ``params`` {name: (T, ...)} lead, and the hypergradient, in the order
        of ``self.learned``. Raises what ``unroll_tasks`` does."""
        config = self.config
        how = {"backend": config.backend, "first_order": config.first_order}
        trajectory = unroll_tasks(loss_fn, params, batches, self.rule, state, **how)
        loss = meta_loss(loss_fn, trajectory, query, config.objective)
        grads = torch.autograd.grad(loss, self.learned, allow_unused=True)
        means = {name: s.detach().float().mean() for name, s in trajectory.signals.items()}
        rest = detached((trajectory.params, trajectory.state))
        return Moved(*rest, loss.detach(), loss.new_zeros(()), means), grads

    def begin(self) -> None:
        """Called when new runs begin; a gradient needs to know nothing of them."""

    def _clip(self, grads: tuple[Tensor | None, ...]) -> Tensor:
        """Hand Adam the hypergradient, clipped; returns its length before."""
        if all(grad is None for grad in grads):
            raise ValueError("the meta-loss does not depend on the rule: is a signal detached?")
        for parameter, grad in zip(self.learned, grads, strict=True):
            parameter.grad = grad
        norm = torch.nn.utils.clip_grad_norm_(self.learned, self.config.clip)
        if self.config.trust < math.inf:
            share = (self.config.trust / norm).clamp(max=1.0)
            for parameter in self.learned:
                if parameter.grad is not None:
                    parameter.grad.mul_(share)
        return norm
