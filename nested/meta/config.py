"""What can be chosen about meta-training, checked before any work.

Source: truncated unrolls, clipping and Adam on level 4 as in Metz et al. 2019 (arXiv 1810.10180).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nested.meta.objective import OBJECTIVES
from nested.unroll.dispatch import check_backend

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
    tasks: int = 16  # T: inner runs side by side
    objective: str = "mean"  # or "query", or "log": see nested.meta.objective
    lr: float = 0.03  # of Adam on level 4; falls to a twentieth along a cosine
    clip: float = 1.0  # longest hypergradient
    backend: str = "eager"
    estimator: str = "gradient"  # or "pes": see nested.meta.evolution; tasks are then particles
    sigma: float = 0.01  # of PES's perturbations
    seed: int = 0
    max_skips: int = 10  # this many non-finite hypergradients in a row stop the run

    def __post_init__(self) -> None:
        for name in ("meta_steps", "unroll_length", "max_horizon", "tasks", "max_skips"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a whole number from 1, but got {value!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is a whole number from 0 to 2**31 - 1, but got {self.seed!r}")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is one of {ESTIMATORS}, but got {self.estimator!r}")
        if self.estimator == "pes" and self.tasks % 2:
            raise ValueError(f"PES takes tasks in pairs: an even number, but got {self.tasks}")
        for name in ("lr", "clip", "sigma"):
            if type(getattr(self, name)) not in (int, float):
                raise ValueError(f"{name} is a number, but got {getattr(self, name)!r}")
        for name in ("lr", "clip", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is a finite number above 0, but got {getattr(self, name)}"
                )
        if self.max_horizon < self.unroll_length:
            raise ValueError(
                f"max_horizon is at least unroll_length, so that a run has room for one window, but"
                f" got {self.max_horizon} and {self.unroll_length}"
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is one of {OBJECTIVES}, but got {self.objective!r}")
        check_backend(self.backend)
