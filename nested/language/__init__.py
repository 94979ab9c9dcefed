"""A language model on a laptop that goes on learning while it reads."""

from nested.language.checkpoint import load
from nested.language.config import TrainConfig
from nested.language.remembering import memorise
from nested.language.run import train
from nested.language.text import Text, prepare
from nested.language.writing import generate

__all__ = ["Text", "TrainConfig", "generate", "load", "memorise", "prepare", "train"]
