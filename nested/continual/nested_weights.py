"""Nested weights: fast weights, and copies of them that move ever more slowly.

Letters: B examples of a batch, C classes. Source: two slow copies that rehearsal is held to as in
CLS-ER, Arani et al. 2022 (arXiv 2201.12604); here they are levels with clocks, each of which
follows the level before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nested.continual.replay import Replay
from nested.continual.reservoir import slots_for
from nested.continual.strategy import answer_with, count_weights, weights_of
from nested.levels.clock import Clock
from nested.levels.forward import Params
from nested.support.checks import check_numbers, check_share


class NestedWeights(Replay):
    """Levels of weights w_0, w_1, ... of one net. The fast ones, w_0, learn from each batch and
    from rehearsed examples. Each copy follows the level before it, at its own clock: every
    ``periods[i - 1]`` batches

        w_i <- w_i + share (w_(i-1) - w_i).

    The slowest copy holds the fast weights back. A step also lowers ``held`` times the squared
    distance to its logits, on new and on rehearsed examples. The slowest copy answers. The
    copies are taken from ``budget``, and examples fill the rest. Without copies this is replay."""

    ranges: Mapping[str, tuple[float, float]] = {
        "lr": (0.1, 2.0),
        "held": (0.1, 1.5),
        "share": (0.01, 0.4),
    }
    saved = (*Replay.saved, "copies")

    def __init__(
        self,
        net: nn.Module,
        *,
        periods: tuple[int, ...] = (1, 4),
        share: float = 0.1,
        held: float = 0.3,
        weight: float = 0.6,
        **settings: Any,
    ) -> None:
        super().__init__(net, weight=weight, **settings)
        check_numbers(held=held)
        check_share(share=share)
        self.share, self.held = share, held
        self.clocks = tuple(Clock(period) for period in periods)
        self.copies: list[Params] = [weights_of(net) for _ in self.clocks]
        self.moves = {name: 0 for name in level_names(len(periods))}

    def regularised(self, x: Tensor, logits: Tensor) -> Tensor | float:
        if not (self.copies and self.held):
            return 0.0
        return self.held * mse_loss(logits, answer_with(self.net, self.copies[-1], x))

    @torch.no_grad()
    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        super().after_step(x, y, task)
        faster = dict(self.net.named_parameters())
        for clock, copy, name in zip(self.clocks, self.copies, list(self.moves)[1:]):
            if clock.due(self.moves["weights"]):
                for key, weight in copy.items():
                    weight.lerp_(faster[key], self.share)
                self.moves[name] += 1
            faster = copy

    def answer(self, x: Tensor) -> Tensor:
        return answer_with(self.net, self.copies[-1], x) if self.copies else self.net(x)

    def free_slots(self, x: Tensor) -> int:
        return slots_for(self.budget - len(self.copies) * count_weights(self.net), x, 2)


class OneCopy(NestedWeights):
    """Nested weights with one slow copy, which leaves more of ``budget`` to examples."""

    def __init__(self, net: nn.Module, *, periods: tuple[int, ...] = (2,), **settings: Any) -> None:
        super().__init__(net, periods=periods, **settings)


def level_names(copies: int) -> list[str]:
    """Return the names of the levels, from fast to slow."""
    middle = [f"copy {i}" for i in range(1, copies)]
    return ["weights", *middle, "slow copy"][: copies + 1]
