"""Which line comes next? Questions made of any text, each with lines to choose from.

Source: choosing an ending by its likelihood, as in HellaSwag, Zellers et al. 2019 (arXiv
1905.07830). Its wrong endings are written to mislead; here they are other lines of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator

SHORTEST, BEFORE = 20, 256  # characters of a line, and of the text before it


def next_line_questions(
    texts: Sequence[str], count: int, generator: Generator, choices: int = 4
) -> list[dict[str, Any]]:
    """Ask ``count`` times which of some lines comes next in one of ``texts``.

    Each question is {"question": the text before a line, "choices": that line and others from
    ``texts``, "answer": its place among them, from 0}. Chance is 1 / ``choices``. Texts with too
    few lines give no questions.
    """
    lines: list[tuple[str, str]] = []  # the text before a line, and the line
    for text in texts:
        at = 0
        for line in text.splitlines(keepends=True):
            if at and len(line.strip()) >= SHORTEST:
                lines.append((text[max(0, at - BEFORE) : at], line))
            at += len(line)
    if len({line for _, line in lines}) < choices:
        return []
    questions = []
    while len(questions) < count:
        rows = torch.randint(len(lines), (choices,), generator=generator).tolist()
        drawn = [lines[row][1] for row in rows]
        if len(set(drawn)) == choices:  # one right answer
            answer = len(questions) % choices
            question = {"question": lines[rows[answer]][0], "choices": drawn, "answer": answer}
            questions.append(question)
    return questions
