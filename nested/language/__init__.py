"""A language model on a laptop that goes on learning while it reads."""

from nested.language.checkpoint import load
from nested.language.config import TrainConfig
from nested.language.generate import generate
from nested.language.text import Text, prepare

__all__ = ["Text", "TrainConfig", "generate", "load", "prepare"]
