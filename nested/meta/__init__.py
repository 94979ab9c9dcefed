"""Learning level 4, and racing what was learned."""

from nested.meta.config import MetaConfig
from nested.meta.history import MetaHistory
from nested.meta.race import RaceResult, race
from nested.meta.training import MetaTrainingError, meta_train

__all__ = ["MetaConfig", "MetaHistory", "MetaTrainingError", "RaceResult", "meta_train", "race"]
