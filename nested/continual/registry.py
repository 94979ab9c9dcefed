"""All strategies, by name.

Source: each file names its own.
"""

from __future__ import annotations

from nested.continual.continuum import Continuum
from nested.continual.dark import DarkReplay
from nested.continual.distillation import Distillation
from nested.continual.ewc import EWC
from nested.continual.gem import AveragedGem
from nested.continual.joint import Joint
from nested.continual.layers import Layers
from nested.continual.meta_learned import MetaLearned
from nested.continual.nested_weights import NestedWeights, OneCopy
from nested.continual.replay import Replay
from nested.continual.strategy import Strategy
from nested.continual.synapses import Synapses

STRATEGIES: dict[str, type[Strategy]] = {
    "fine-tuning": Strategy,
    "joint": Joint,
    "ewc": EWC,
    "si": Synapses,
    "lwf": Distillation,
    "a-gem": AveragedGem,
    "replay": Replay,
    "der++": DarkReplay,
    "layers": Layers,
    "continuum": Continuum,
    "nested": NestedWeights,
    "one copy": OneCopy,
    "meta-learned": MetaLearned,
}
