"""Does a model remember what it has read, and for how long? Facts, needles and passkeys.

Letters: B texts side by side.
Source: a needle in a haystack, Kamradt 2023; passkeys, Mohtashami and Jaggi 2023 (arXiv
2305.16300).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from nested.language.coder import Coder, side_by_side
from nested.language.remembering import memorise
from nested.levels.forward import State
from nested.memory import pick, stack_states
from nested.models.model import SequenceModel
from nested.tasks.facts import ASKED, STATED, draw_facts, stated

PIECE = 512  # tokens read at once
SURPRISE = 1.0  # bits, above which a token is memorised
WAYS = ("nothing", "frozen", "live", "memorised")


@torch.no_grad()
def read_texts(
    model: SequenceModel,
    coder: Coder,
    texts: Sequence[str],
    state: State | None = None,
    *,
    frozen: bool = False,
) -> State:
    """Read ``texts`` side by side, from their start or on from ``state`` (B, ...), and return the
    state after them. Memories that are ``frozen`` write nothing."""
    rows = [coder.encode(text.encode()) for text in texts]
    state = model.init(len(texts)) if state is None else state
    for at in range(0, max(map(len, rows)), PIECE):
        tokens, lengths = side_by_side([row[at : at + PIECE] for row in rows])
        tokens = tokens.to(next(model.parameters()).device)
        write = torch.zeros_like(tokens, dtype=torch.bool) if frozen else None
        state = model(tokens, state, lengths=lengths, write=write)[1]
    return state


@torch.no_grad()
def answers(
    model: SequenceModel, coder: Coder, state: State, questions: Sequence[str], tokens: int
) -> list[str]:
    """Ask a question of each sample of ``state`` (B, ...), and return the ``tokens`` most likely
    tokens after each, as text."""
    asked, lengths = side_by_side([coder.encode(question.encode()) for question in questions])
    logits, state = model(asked.to(next(model.parameters()).device), state, lengths=lengths)
    written = [logits[torch.arange(len(lengths)), torch.tensor(lengths) - 1].argmax(-1)]
    while len(written) < tokens:
        logits, state = model(written[-1][:, None], state)
        written.append(logits[:, -1].argmax(-1))
    rows = torch.stack(written, dim=1).tolist()
    return [coder.decode(row).decode("utf-8", "replace") for row in rows]


def share_recalled(
    model: SequenceModel, coder: Coder, state: State, facts: Sequence[tuple[str, str]]
) -> float:
    """Ask sample b of ``state`` (B, ...) for fact b, (name, code). Returns the share of right
    answers."""
    got = answers(model, coder, state, [ASKED.format(name) for name, _ in facts], 5)
    right = [answer.startswith(f" {code}") for answer, (_, code) in zip(got, facts)]
    return sum(right) / len(right)


def recall_facts(
    model: SequenceModel,
    coder: Coder,
    count: int,
    size: int,
    generator: Generator,
    after: str = "",
    ways: Sequence[str] = WAYS,
) -> dict[str, float]:
    """Tell ``count`` facts in a text of ``size`` bytes, then the text ``after``, and ask for each.

    Returns the share of right answers in each of ``ways``, which are some of ``WAYS``."""
    facts = draw_facts(count, generator)
    states = _states(model, coder, [stated(facts, size, generator) + after], ways)
    copies = {way: pick(state, [0] * count) for way, state in states.items()}
    return {way: share_recalled(model, coder, state, facts) for way, state in copies.items()}


def recall_at(
    model: SequenceModel,
    coder: Coder,
    distance: int,
    haystack: Sequence[str],
    generator: Generator,
    ways: Sequence[str] = WAYS,
) -> dict[str, float]:
    """Tell a fact, then ``distance`` bytes of each text of ``haystack``, and ask for the fact.

    Returns the share of right answers in each of ``ways``, which are some of ``WAYS``."""
    facts = draw_facts(len(haystack), generator)
    texts = [STATED.format(*fact) + text[:distance] + "\n" for fact, text in zip(facts, haystack)]
    states = _states(model, coder, texts, ways)
    return {way: share_recalled(model, coder, state, facts) for way, state in states.items()}


def _states(
    model: SequenceModel, coder: Coder, texts: Sequence[str], ways: Sequence[str]
) -> dict[str, State]:
    """The states (B, ...) after nothing was read, after reading with frozen or with live memories,
    and after ``memorise`` of what surprises."""

    def memorised(text: str) -> State:
        return memorise(model, None, coder.encode(text.encode()), surprise=SURPRISE)

    make = {
        "nothing": lambda: model.init(len(texts)),
        "frozen": lambda: read_texts(model, coder, texts, frozen=True),
        "live": lambda: read_texts(model, coder, texts),
        "memorised": lambda: stack_states([memorised(text) for text in texts]),
    }
    return {way: make[way]() for way in ways}
