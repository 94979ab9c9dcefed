"""What can be chosen about meta-training, checked before any work.

Source: truncated unrolls, clipping and Adam on level 4 as in Metz et al. 2019 (arXiv 1810.10180).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nested.meta.objective import OBJECTIVES
from nested.unroll.dispatch import check_backend

HORIZONS = ("uniform", "log-uniform")
ESTIMATORS = ("gradient", "pes")


@dataclass(frozen=True)
class MetaConfig:
    """Settings of ``meta_train``; a value that is not allowed raises ``ValueError`` at once.

    The defaults are the demo's. Windows of 10 inner steps learn better and more surely than windows
    of 20 in the same time: hypergradients through longer windows have heavier tails.
    """

    meta_steps: int = 350  # updates of level 4, one per window
    unroll_length: int = 10  # K: inner steps in a window, each differentiated through
    max_horizon: int = 100  # inner steps after which a run ends at the latest
    horizons: str = "uniform"  # or "log-uniform": how the end of a run is drawn, in windows
    tasks: int = 16  # T: inner runs side by side
    groups: int = 1  # sets of T runs on their way at once, moved on in random order
    objective: str = "mean"  # or "query", or "log": see nested.meta.objective
    lr: float = 0.03  # of Adam on level 4; falls to a twentieth along a cosine
    weight_decay: float = 1e-4
    clip: float = 1.0  # longest hypergradient
    trust: float = math.inf  # one r times as long as this has exploded: it counts for 1 / r
    first_order: bool = False  # inner gradients are constants to the hypergradient
    backend: str = "eager"
    estimator: str = "gradient"  # or "pes": see nested.meta.evolution; tasks are then particles
    sigma: float = 0.01  # of PES's perturbations
    rescale: float = 1.0  # tensors are shown in units up to so many times theirs: Rescaled
    seed: int = 0
    max_skips: int = 10  # this many non-finite hypergradients in a row stop the run

    def __post_init__(self) -> None:
        for name in ("meta_steps", "unroll_length", "max_horizon", "tasks", "groups", "max_skips"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a whole number from 1, but got {value!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is a whole number from 0 to 2**31 - 1, but got {self.seed!r}")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is one of {ESTIMATORS}, but got {self.estimator!r}")
        if self.estimator == "pes" and self.tasks % 2:
            raise ValueError(f"PES takes tasks in pairs: an even number, but got {self.tasks}")
        if self.estimator == "pes" and self.groups > 1:
            raise ValueError(f"PES remembers one group of runs, but got {self.groups} groups")
        for name in ("lr", "clip", "sigma", "weight_decay", "rescale", "trust"):
            if type(getattr(self, name)) not in (int, float):
                raise ValueError(f"{name} is a number, but got {getattr(self, name)!r}")
        for name in ("lr", "clip", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is a finite number above 0, but got {getattr(self, name)}"
                )
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is a finite number from 0, but got {self.weight_decay}")
        if not self.trust > 0:
            raise ValueError(f"trust is a number above 0, but got {self.trust}")
        if not 1 <= self.rescale < math.inf:
            raise ValueError(f"rescale is a finite number from 1, but got {self.rescale}")
        if self.max_horizon < self.unroll_length:
            raise ValueError(
                f"max_horizon is at least unroll_length, so that a run has room for one window, but"
                f" got {self.max_horizon} and {self.unroll_length}"
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is one of {OBJECTIVES}, but got {self.objective!r}")
        if self.horizons not in HORIZONS:
            raise ValueError(f"horizons is one of {HORIZONS}, but got {self.horizons!r}")
        if not isinstance(self.first_order, bool):
            raise ValueError(f"first_order is True or False, but got {self.first_order!r}")
        check_backend(self.backend)
