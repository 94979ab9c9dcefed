"""Meta-learned: a strategy whose rule was taught, through whole streams, not to forget.

Letters: B examples of a batch. Source: ``nested.continual.steady`` has the rule and its sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nested.continual.replay import Replay
from nested.continual.reservoir import slots_for
from nested.continual.steady import SteadyRule
from nested.continual.strategy import answer_with, count_weights
from nested.support.checks import check_numbers
from nested.support.files import load_checkpoint

SHIPPED = Path(__file__).parent / "pretrained" / "steady.pt"


class MetaLearned(Replay):
    """Replay whose weights move by a learned ``rule``. By default it is the one that ships, with
    its rates times ``scale``, and with a slow copy that follows ``follow`` times as fast. This copy
    answers, and is taken from ``budget``."""

    ranges: Mapping[str, tuple[float, float]] = {
        "scale": (0.3, 3.0),
        "follow": (0.01, 1.0),
        "weight": (0.3, 0.9),
    }
    saved = (*Replay.saved, "rule_state")

    def __init__(
        self,
        net: nn.Module,
        *,
        rule: SteadyRule | None = None,
        scale: float = 1.0,
        follow: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(net, **settings)
        check_numbers(scale=scale, follow=follow)
        self.rule = rule or shipped_rule(scale, follow)
        self.rule_state = self.rule.init(self.weights())
        self.moves = {"weights": 0, "slow copy": 0}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the net, {name: (...)}, without a graph."""
        return {name: weight.detach() for name, weight in self.net.named_parameters()}

    @torch.no_grad()
    def step(self) -> None:
        grads = {name: weight.grad for name, weight in self.net.named_parameters()}
        step = self.rule(self.weights(), grads, self.rule_state, torch.zeros(()))
        for name, weight in self.net.named_parameters():
            weight.copy_(step.params[name])
        self.rule_state = step.state

    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        super().after_step(x, y, task)
        self.moves["slow copy"] += 1

    def answer(self, x: Tensor) -> Tensor:
        return answer_with(self.net, self.rule_state["slow"], x)

    def free_slots(self, x: Tensor) -> int:
        return slots_for(self.budget - count_weights(self.net), x, 2)


def shipped_rule(scale: float = 1.0, follow: float = 1.0) -> SteadyRule:
    """Load the rule that ships, with ``scale`` and ``follow`` as in ``SteadyRule``. Raises
    ``ValueError`` if its file cannot be read."""
    rule = SteadyRule(scale, follow)
    rule.load_state_dict(load_checkpoint(SHIPPED)["rule"])
    return rule
