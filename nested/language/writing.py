"""Write text: one token after another, with the state passed on.

Letters: B texts side by side, T tokens, V tokens of the vocabulary.
Source: nucleus sampling, Holtzman et al. 2020 (arXiv 1904.09751); repetition penalty, Keskar et al.
2019 (arXiv 1909.05858).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nested.language.coder import END, Coder, special
from nested.levels.forward import State
from nested.models.model import SequenceModel
from nested.models.token_reader import TokenReader
from nested.support.stream import Stream

COLDEST = 1e-6  # a lower temperature would make logits infinite
RECORDED = 200  # tokens; to record a model takes as long as the record then saves


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Raises ``ValueError`` for settings that make no sense.

    Logits are divided by ``temperature``; 0 takes the most likely token. Only the ``top_k`` most
    likely tokens are kept, and of these the fewest whose chances add up to ``top_p``. The chance of
    a token that was written before gets smaller by ``penalty`` (1 is none).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is 0 or more, but got {self.temperature}")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise ValueError(f"top_k is a whole number from 1, but got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is over 0 and at most 1, but got {self.top_p}")
        if not 1 <= self.penalty < float("inf"):
            raise ValueError(f"penalty is 1 or more, but got {self.penalty}")

    def draw(self, logits: Tensor, written: Sequence[int], generator: Generator | None) -> int:
        """Draw a token from ``logits`` (V,), after the tokens ``written``."""
        if self.penalty > 1 and written:
            seen = torch.tensor(sorted(set(written)))
            chosen = logits[seen]
            logits = logits.index_copy(
                0, seen, torch.where(chosen > 0, chosen / self.penalty, chosen * self.penalty)
            )
        if self.temperature < COLDEST:
            return int(logits.argmax())
        chances, order = torch.softmax(logits / self.temperature, 0).sort(descending=True)
        if self.top_k is not None:
            chances = chances[: self.top_k]
        if self.top_p is not None:
            before = chances.cumsum(0) - chances
            kept = int((before < self.top_p * chances.sum()).sum())
            chances = chances[: max(1, kept)]  # the first one, should rounding leave none
        return int(order[torch.multinomial(chances, 1, generator=generator)])


class Draft:
    """One text as it is written: draws each token from the logits that a model gives, and says
    what can be shown.

    ``text`` is what was written before now, and ``tokens`` (T,) are its tokens. ``reason`` is None
    at first. Later it is "stop", after a stop string or at the end of a text, or "length".
    """

    def __init__(
        self,
        coder: Coder,
        tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        generator: Generator | None,
    ) -> None:
        self._coder, self._limit, self._sampling = coder, tokens, sampling
        self._stream, self._generator = Stream(stop), generator
        self.tokens, self.text, self.reason = [], "", None

    def push(self, logits: Tensor) -> tuple[int, str]:
        """Draw the next token from ``logits`` (V,). Returns it, and the text to show now."""
        token = self._sampling.draw(logits, self.tokens, self._generator)
        if token == special(self._coder, END):
            return token, self.end("stop")
        self.tokens.append(token)
        piece = self._stream.push(self._coder.decode([token]))
        self.text += piece
        if self._stream.is_stopped:
            piece += self.end("stop")
        elif len(self.tokens) >= self._limit:
            piece += self.end("length")
        return token, piece

    def end(self, reason: str) -> str:
        """End the text for ``reason``, and return what was held back, to show now."""
        self.reason, piece = reason, self._stream.end()
        self.text += piece
        return piece


class Writing(Draft):
    """Yields text, piece by piece, valid UTF-8 each. Its ``state`` goes on where the text ends."""

    def start(
        self, model: SequenceModel | TokenReader, prompt: str | bytes, state: State | None
    ) -> Writing:
        """Let ``model`` go on from ``prompt``, read from ``state`` (1, ...). Returns itself."""
        self._model, self.state = model, state
        self._device = next(model.parameters()).device
        self._next = first_tokens(self._coder, prompt)
        return self

    def __iter__(self) -> Iterator[str]:
        while self.reason is None:
            token, piece = self.push(self._read())
            self._next = [token]
            if self.reason is not None:  # the state goes on after the last token
                self._read()
            if piece:
                yield piece

    @torch.no_grad()
    def _read(self) -> Tensor:
        logits, self.state = self._model(torch.tensor([self._next]).to(self._device), self.state)
        return logits[0, -1].float().cpu()


def first_tokens(coder: Coder, prompt: str | bytes) -> list[int]:
    """Return the tokens (T,) of ``prompt``. An empty one is the token that stands between texts."""
    prompt = prompt.encode() if isinstance(prompt, str) else prompt
    return coder.encode(prompt) or [special(coder, END)]


def generate(
    model: SequenceModel | TokenReader,
    coder: Coder,
    prompt: str | bytes,
    tokens: int,
    *,
    state: State | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    penalty: float = 1.0,
    stop: Sequence[str] = (),
    generator: Generator | None = None,
) -> Writing:
    """Write up to ``tokens`` tokens that go on from ``prompt``, and from a ``state`` (1, ...) if
    given.

    Returns an iterator over pieces of text, see ``Writing``. Its ``state`` goes on where the text
    ends. Writing ends before a string of ``stop``, which is never shown, not even in part. For many
    tokens a ``TokenReader`` records the model first, and writes the same text sooner. To write
    several texts, make one ``TokenReader`` and pass it as the model. Raises ``ValueError`` for
    settings that make no sense.
    """
    if not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"tokens is a whole number from 1, but got {tokens!r}")
    if isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
        raise ValueError(f"stop is a list of texts that are not empty, but got {stop!r}")
    sampling = Sampling(temperature, top_k, top_p, penalty)
    if tokens > RECORDED and not isinstance(model, TokenReader):
        model = TokenReader(model)
    return Writing(coder, tokens, sampling, stop, generator).start(model, prompt, state)
