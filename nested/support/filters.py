"""Which documents are worth training on: long enough, text, whole, and not there twice.

Source: the heuristics of Gopher, Rae et al. 2021 (arXiv 2112.11446); MinHash, Broder 1997.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

WORDS, HASHES, BANDS = 5, 64, 16  # words a shingle, numbers a signature, bands of them


@dataclass(frozen=True)
class FilterConfig:
    """What ``Filters`` keeps. Raises ``ValueError`` for shares outside 0 to 1 and lengths under 1.

    A document has ``min_bytes`` to ``max_bytes`` bytes. At least ``min_letters`` of its characters
    are letters or spaces, and at most ``max_broken`` of its bytes are no UTF-8. It is dropped as a
    near duplicate if it shares ``max_alike`` or more of its runs of five words with an earlier
    document. A ``max_alike`` of 1 keeps all.
    """

    min_bytes: int = 64
    max_bytes: int = 1 << 28
    min_letters: float = 0.4
    max_broken: float = 0.01
    max_alike: float = 0.8

    def __post_init__(self) -> None:
        if not 1 <= self.min_bytes <= self.max_bytes:
            raise ValueError(
                f"documents have 1 <= min_bytes <= max_bytes, but got {self.min_bytes} and"
                f" {self.max_bytes}"
            )
        for name in ("min_letters", "max_broken"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, but got {share}")
        if not self.max_alike > 0:
            raise ValueError(f"max_alike is over 0, but got {self.max_alike}")


class Filters:
    """Decides on one document after another, and counts the reasons in ``counts``."""

    def __init__(self, config: FilterConfig) -> None:
        self.config, self.counts = config, Counter()
        self._bands: dict[bytes, list[np.ndarray]] = {}

    def keep(self, document: bytes) -> bytes | None:
        """Return the ``document`` as valid UTF-8, or None if it is dropped."""
        reason, text = self._judge(document)
        self.counts[reason or "kept"] += 1
        return None if reason else text

    def _judge(self, document: bytes) -> tuple[str, bytes]:
        config = self.config
        if len(document) < config.min_bytes:
            return "too short", b""
        if len(document) > config.max_bytes:
            return "too long", b""
        if b"\0" in document:
            return "binary", b""
        text = document.decode("utf-8", "replace")
        broken = text.count("\ufffd") - document.count("\ufffd".encode())
        if broken > config.max_broken * len(document):
            return "broken UTF-8", b""
        if sum(c.isalpha() or c.isspace() for c in text) < config.min_letters * len(text):
            return "few letters", b""
        if self._is_alike(text):
            return "near duplicate", b""
        return "", text.encode("utf-8")

    def _is_alike(self, text: str) -> bool:
        """Compare with all documents before that share a band of the signature."""
        if self.config.max_alike >= 1:
            return False
        own = signature(text)
        keys = [bytes([i]) + part.tobytes() for i, part in enumerate(np.split(own, BANDS))]
        others = [other for key in keys for other in self._bands.get(key, ())]
        if any((own == other).mean() >= self.config.max_alike for other in others):
            return True
        for key in keys:
            self._bands.setdefault(key, []).append(own)
        return False


def signature(text: str) -> np.ndarray:
    """Compute the MinHash signature (64,) of ``text``.

    The share of equal numbers in two signatures estimates the share of common runs of five words.
    """
    words = text.split() or [""]
    starts = range(max(1, len(words) - WORDS + 1))
    runs = (" ".join(words[i : i + WORDS]).encode() for i in starts)
    digests = (hashlib.blake2b(run, digest_size=8).digest() for run in runs)
    values = np.fromiter((int.from_bytes(digest, "big") for digest in digests), dtype=np.uint64)
    drawn = np.random.default_rng(0).integers(1 << 63, size=(HASHES, 2), dtype=np.uint64)
    # a v + b modulo 2^64, for odd a
    return np.array([(a * values + b).min() for a, b in drawn * np.uint64(2) + np.uint64(1)])
