"""A language model on a laptop that goes on learning while it reads."""

from nested.language.text import Text, prepare

__all__ = ["Text", "prepare"]
