"""Learning without forgetting: answer new examples as the net did before the task.

Letters: B examples of a batch, C classes. Source: LwF, Li and Hoiem 2016 (arXiv 1606.09282).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import kl_div

from nested.continual.strategy import LR_RANGE, Strategy, answer_with, weights_of
from nested.levels.forward import Params
from nested.support.checks import check_numbers

HEAT = 2.0  # temperature of both answers


class Distillation(Strategy):
    """Holds the answers to new examples where they were after the last task. A step also lowers
    ``strength`` times the distance to the answers of the net of then, among the classes seen by
    then. It stores the weights of that net."""

    ranges: Mapping[str, tuple[float, float]] = {"lr": LR_RANGE, "strength": (0.1, 10.0)}
    saved = (*Strategy.saved, "teacher", "seen", "taught")

    def __init__(self, net: nn.Module, *, strength: float = 1.0, **settings: Any) -> None:
        super().__init__(net, **settings)
        check_numbers(strength=strength)
        self.strength = strength
        self.teacher: Params = {}
        self.seen: list[int] = []  # classes so far
        self.taught: list[int] = []  # classes that the teacher knows

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        logits = self.net(x)
        self.seen = sorted({*self.seen, *y.tolist()})
        loss = self.criterion(logits, y, task)
        if not self.teacher or not self.strength:
            return loss
        wanted = answer_with(self.net, self.teacher, x)[:, self.taught] / HEAT
        ours = (logits[:, self.taught] / HEAT).log_softmax(-1)
        apart = kl_div(ours, wanted.log_softmax(-1), log_target=True, reduction="batchmean")
        return loss + self.strength * HEAT**2 * apart

    def end_task(self, task: int) -> None:
        self.teacher, self.taught = weights_of(self.net), list(self.seen)
