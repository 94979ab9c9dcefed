"""The learned rule of the strategy "meta-learned": how fast each part of a net moves, and its copy.

State: a slow copy of the weights.  It sees: gradients.  Clock: every batch; meta-training moves the
rule once a stream. Letters: T streams side by side.
Source: learned rates of each part as in La-MAML, Gupta et al. 2020 (arXiv 2007.13904); a stream as
the inner problem as in OML, Javed and White 2019 (arXiv 1905.12588).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nested.continual.strategy import CLIP
from nested.levels.forward import Params, State
from nested.levels.rule import Step, UpdateRule

PARTS = ("slow", "medium", "fast", "head")
START = {"rate": 0.3, "share": 0.1, "pull": 0.001}
RANGES = {"rate": (1e-3, 3.0), "share": (1e-3, 0.999), "pull": (1e-4, 0.5)}


class SteadyRule(UpdateRule):
    """Moves weights w by their gradient g, clipped to length 1, and a slow copy s after them.

        w <- w - scale rate g - pull (w - s),   s <- s + follow share (w - s).

    Weights and biases of each part of a net have a rate, a pull and a share of their own. The name
    of a tensor begins with its part, and other names count as "fast". These 24 numbers are learned.
    A sigmoid keeps them inside ``RANGES``, in log space. ``scale`` and ``follow`` are not learned:
    longer streams want smaller ones.

    State: {"slow": {name: (...)}}.
    """

    needs_loss = False

    def __init__(self, scale: float = 1.0, follow: float = 1.0) -> None:
        super().__init__()
        self.scale, self.follow = scale, follow
        starts = [torch.logit(_place(name, START[name])) for name in RANGES]
        self.raw = nn.Parameter(torch.stack(starts)[:, None, None].repeat(1, len(PARTS), 2))

    def numbers(self) -> dict[str, Tensor]:
        """Return {"rate", "share", "pull": (4, 2)}, for each part and kind."""
        spans = zip(RANGES.items(), torch.sigmoid(self.raw))
        return {
            name: (math.log(low) + place * math.log(high / low)).exp()
            for (name, (low, high)), place in spans
        }

    def init(self, params: Params) -> State:
        return {"slow": {name: p.detach().clone() for name, p in params.items()}}

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        numbers, new, slow = self.numbers(), {}, {}
        squared = sum((grad**2).sum() for grad in grads.values())
        clip = CLIP / squared.clamp(min=CLIP**2).sqrt()
        for name, w in params.items():
            part = PARTS.index(name.split(".")[0]) if name.split(".")[0] in PARTS else 2
            kind = int(name.endswith("bias"))
            rate, share, pull = (numbers[n][part, kind] for n in ("rate", "share", "pull"))
            before = state["slow"][name]
            new[name] = w - self.scale * rate * clip * grads[name] - pull * (w - before)
            slow[name] = before + self.follow * share * (new[name] - before)
        return Step(new, {"slow": slow}, {})


def _place(name: str, value: float) -> Tensor:
    """Where ``value`` is in the range of ``name``, from 0 to 1 in log space."""
    low, high = RANGES[name]
    return torch.tensor(math.log(value / low) / math.log(high / low))
