"""Sequence models made of memories, and the Transformer as their baseline."""

from nested.models.config import ModelConfig
from nested.models.decay import decay_groups
from nested.models.describe import describe
from nested.models.hope import Hope
from nested.models.transformer import Transformer

__all__ = ["Hope", "ModelConfig", "Transformer", "decay_groups", "describe"]
