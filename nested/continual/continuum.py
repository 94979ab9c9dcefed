"""A continuum-memory network: small nets between body and head, each with its own clock.

Letters: B examples of a batch, D features. Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 70.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nested.continual.layers import Layers
from nested.continual.strategy import count_weights
from nested.support.checks import check_numbers


class Continuum(Layers):
    """Puts a chain of small nets before the head of ``net``, one for each of ``periods``:

        h <- h + W_2 relu(W_1 h),

    and moves each of them once in its period of batches, by the sum of the gradients since. All
    else moves at every batch. W_2 starts at 0, so that the first net is ``net`` itself. A net has
    ``hidden`` units, or as many as ``budget`` allows. Its weights and the sums that wait count as
    stored, because other strategies do not have them. Without periods or without room this is
    fine-tuning."""

    def __init__(
        self,
        net: nn.Sequential,
        *,
        periods: tuple[int, ...] = (1, 4, 16),
        hidden: int = 32,
        budget: int = 0,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        check_numbers(hidden=hidden)
        self.periods = tuple(periods)
        *body, head = net.children()
        dim, device = head.in_features, head.weight.device
        copies = len(self.periods) + sum(period > 1 for period in self.periods)
        room = budget // max(1, copies) - dim  # of a net with biases
        units = max(0, min(hidden, room // (2 * dim + 1)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            levels = [Residual(dim, units).to(device) for _ in self.periods if units]
        parts = type(net)(*body, *levels, head)
        super().__init__(parts, seed=seed, budget=budget, **settings)

    def groups(self) -> list[dict]:
        levels = [part for part in self.net if isinstance(part, Residual)]
        groups = [
            {"params": list(level.parameters()), "name": f"level {i}", "period": period}
            for i, (level, period) in enumerate(zip(levels, self.periods), start=1)
        ]
        ours = {id(weight) for group in groups for weight in group["params"]}
        rest = [weight for weight in self.net.parameters() if id(weight) not in ours]
        return [*groups, {"params": rest, "name": "body and head", "period": 1}]

    def numbers_stored(self) -> int:
        levels = [part for part in self.net if isinstance(part, Residual)]
        return super().numbers_stored() + sum(map(count_weights, levels))


class Residual(nn.Module):
    """h + W_2 relu(W_1 h) of features h (B, D)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for weight in self.second.parameters():
            nn.init.zeros_(weight)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(self.first(h).relu())
