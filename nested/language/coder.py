"""Turn text into tokens and back: bytes, or pairs of bytes that a BPE has joined.

Source: byte pair encoding, Sennrich et al. 2016 (arXiv 1508.07909), on bytes as in GPT-2; the
library ``tokenizers``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nested.support.extras import needed

END = "<|end|>"  # stands between two texts
SPECIALS = (END, "<|user|>", "<|model|>")


class ByteCoder:
    """One token a byte, 0 to 255, then ``SPECIALS``. Nothing has to be learned, and no text is
    unknown."""

    vocab = 256 + len(SPECIALS)

    def encode(self, text: bytes) -> list[int]:
        """Return the bytes of ``text`` as tokens (T,)."""
        return list(text)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of ``tokens`` (T,). Specials stand for no bytes."""
        return bytes(token for token in tokens if token < 256)

    def about(self) -> dict[str, Any]:
        """Describe the coder by plain data, for ``coder_from``."""
        return {"kind": "bytes"}


class PairCoder:
    """Tokens are bytes and runs of bytes that a byte pair encoding has joined, then ``SPECIALS``.

    ``rules`` is the JSON text of a tokenizer of the library ``tokenizers``. Raises ``ValueError``
    if that library is missing, or cannot read the rules.
    """

    def __init__(self, rules: str) -> None:
        library, self.rules = needed("tokenizers", "language"), rules
        try:
            self._tokenizer = library.Tokenizer.from_str(rules)
        except Exception as error:  # the library raises this class itself
            raise ValueError(f"these are no rules of a BPE: {error}") from error
        joined = self._tokenizer.get_vocab_size()
        self.vocab = joined + len(SPECIALS)
        self._letters = letters_of_bytes()
        byte_of = {letter: byte for byte, letter in enumerate(self._letters)}
        pieces = (self._tokenizer.id_to_token(token) for token in range(joined))
        self._pieces = [bytes(byte_of[letter] for letter in piece) for piece in pieces]

    def encode(self, text: bytes) -> list[int]:
        """Return the tokens (T,) of ``text``. A byte that is no UTF-8 is a token by itself."""
        tokens = []
        for part in re.split("([\udc80-\udcff])", text.decode("utf-8", "surrogateescape")):
            if len(part) == 1 and "\udc80" <= part <= "\udcff":
                tokens.append(self._tokenizer.token_to_id(self._letters[ord(part) - 0xDC00]))
            else:
                tokens += self._tokenizer.encode(part).ids
        return tokens

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of ``tokens`` (T,). Specials stand for no bytes."""
        return b"".join(self._pieces[token] for token in tokens if token < len(self._pieces))

    def about(self) -> dict[str, Any]:
        """Describe the coder by plain data, for ``coder_from``."""
        return {"kind": "pairs", "rules": self.rules}


Coder = ByteCoder | PairCoder  # tokens from 0 to ``vocab`` - 1, of which the last are ``SPECIALS``


def train_pairs(texts: Iterable[str], vocab: int) -> PairCoder:
    """Learn a byte pair encoding with ``vocab`` tokens from ``texts``.

    Raises ``ValueError`` for a ``vocab`` that leaves no token for a pair.
    """
    smallest = 256 + len(SPECIALS)
    if vocab <= smallest:
        raise ValueError(f"a BPE has more than {smallest} tokens, but got {vocab}")
    library = needed("tokenizers", "language")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIALS), initial_alphabet=letters_of_bytes(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PairCoder(tokenizer.to_str())


def coder_from(about: dict[str, Any]) -> Coder:
    """Build the coder that ``about`` describes, for tokens (T,). Raises ``ValueError`` for another
    kind."""
    if about.get("kind") == "bytes":
        return ByteCoder()
    if about.get("kind") == "pairs" and isinstance(about.get("rules"), str):
        return PairCoder(about["rules"])
    raise ValueError(f"a coder is of the kind 'bytes' or 'pairs', but got {about.get('kind')!r}")


def side_by_side(rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Put ``rows`` of tokens under each other, filled up to the longest: (B, T), and the length of
    each."""
    padded = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)
    return padded, [len(row) for row in rows]


def special(coder: Coder, name: str) -> int:
    """Return the token of the special ``name``, one of ``SPECIALS``."""
    return coder.vocab - len(SPECIALS) + SPECIALS.index(name)


def letters_of_bytes() -> list[str]:
    """List the letter that stands for each byte, 0 to 255, in the rules of a BPE.

    Printable bytes stand for themselves, as in GPT-2; all others are moved to 256 and above.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]
