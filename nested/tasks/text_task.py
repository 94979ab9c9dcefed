"""One interface for tasks on texts: tokens in, and one answer for each token that is scored.

Letters: B texts of a batch, T tokens of a text, V different tokens.
Source: masked targets as in multi-query recall, Arora et al. 2023 (arXiv 2312.04927).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Generator, Tensor, nn

from nested.support.checks import check_counts
from nested.tasks.family import check_split, own_generator
from nested.tasks.sequences import UNSCORED


class TextTask(ABC):
    """A task that asks for an answer at the scored tokens of a text.

    Batches are those of ``SequenceTask``: (tokens (B, T) int64, targets (B, T) int64). A target is
    the answer after reading that token and all before it, or -100 where nothing is asked. Tokens
    and answers are from 0 to V - 1 for V = ``vocab``, so a model of V tokens has an output for
    each. Training minimises the cross entropy of its logits (B, T, V); ``scores`` counts its right
    answers:

        tokens, targets = task.batch(generator)
        logits, _ = model(tokens)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    ``answers`` is the number of different answers that the task can give, and ``chance`` the
    accuracy of one drawn evenly from them. Short texts may never need some of them. A constant
    answer scores more where the answers are not equally frequent. ``length`` is the T of training.
    Raises ``ValueError`` for sizes under 1, and for what a task refuses.
    """

    def __init__(self, vocab: int, answers: int, length: int, batch_size: int) -> None:
        check_counts(vocab=vocab, answers=answers, length=length, batch_size=batch_size)
        self.vocab, self.answers = vocab, answers
        self.length, self.batch_size = length, batch_size
        self.check_length(length)

    @property
    def chance(self) -> float:
        """The accuracy of answers that are drawn evenly from all possible ones."""
        return 1 / self.answers

    @abstractmethod
    def check_length(self, length: int) -> None:
        """Raise ``ValueError`` for a T = ``length`` that no text of this task has."""

    @abstractmethod
    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw texts of T = ``length`` tokens, and their targets: both (B, T) int64."""

    def batch(
        self, generator: Generator, split: str = "train", length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw a batch (tokens (B, T), targets (B, T)) on the CPU; T is the training length unless
        ``length`` is given.

        "query" batches come from other seeds than "train" batches, so their texts differ unless few
        texts exist. Raises ``ValueError`` for another ``split`` and for a length that no text has.
        """
        check_split(split)
        length = self.length if length is None else length
        check_counts(length=length)
        self.check_length(length)
        return self.texts(length, own_generator(generator, split == "query"))

    def new_model(self, make_model: Callable[[int], nn.Module]) -> nn.Module:
        """Make the model to train from ``make_model(V)``, which makes one of V tokens."""
        return make_model(self.vocab)


def scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Compute three shares of right answers, from logits (B, T, V) and targets (B, T).

    "accuracy" counts every scored token, "last" the last scored one of each text, and "whole" the
    texts in which every answer is right. Logits that are NaN are wrong. Texts that ask nothing do
    not count; if all do not, the shares are NaN. Raises ``ValueError`` for logits and targets of
    different B or T, and for texts without a token.
    """
    if logits.dim() != 3 or logits.shape[:2] != targets.shape or not targets.numel():
        raise ValueError(
            "logits are (texts, tokens, vocab) for targets (texts, tokens), but got"
            f" {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    asked = targets != UNSCORED
    right = (logits.argmax(-1) == targets) & asked & ~logits.isnan().any(-1)
    last = targets.shape[1] - 1 - asked.flip(1).int().argmax(1, keepdim=True)
    asks = asked.any(1)
    parts = {
        "accuracy": right[asked],
        "last": right.gather(1, last)[asks],
        "whole": (right | ~asked).all(1)[asks],
    }
    return {name: part.double().mean().item() for name, part in parts.items()}
