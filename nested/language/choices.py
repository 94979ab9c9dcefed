"""Choose by likelihood: labels of texts whose classes come one after another, and multiple choice.

Letters: N endings.
Source: the harness lm-eval, Gao et al. 2021, which an adapter here lets ask our models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nested.language.coder import Coder, side_by_side
from nested.language.recall import read_texts
from nested.language.writing import first_tokens, generate
from nested.levels.forward import State
from nested.memory import pick
from nested.models.model import SequenceModel
from nested.support.extras import needed
from nested.support.files import json_lines

TESTED = 5  # each fifth text of a class is a test
LABELLED = "{}\nThis is: "


@torch.no_grad()
def log_likelihoods(
    model: SequenceModel,
    coder: Coder,
    prompt: str,
    endings: Sequence[str],
    state: State | None = None,
) -> list[tuple[float, bool]]:
    """Compute for each of ``endings`` the logarithm of its chance after ``prompt``, and whether it
    is what the model would write. Reading starts from ``state`` (1, ...)."""
    device, count = next(model.parameters()).device, len(endings)
    prompt_tokens = torch.tensor([first_tokens(coder, prompt)], device=device)
    before, state = model(prompt_tokens, state)
    tokens, lengths = side_by_side([coder.encode(ending.encode()) for ending in endings])
    tokens = tokens.to(device)
    after, _ = model(tokens, pick(state, [0] * count), lengths=lengths)
    logits = torch.cat([before[:, -1:].expand(count, -1, -1), after[:, :-1]], dim=1).float()
    chosen = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    is_best = logits.argmax(-1) == tokens
    rows = zip(chosen, is_best, lengths)
    return [(row[:n].sum().item(), bool(best[:n].all())) for row, best, n in rows]


def best_choice(
    model: SequenceModel,
    coder: Coder,
    prompt: str,
    endings: Sequence[str],
    state: State | None = None,
) -> int:
    """Return which of ``endings`` has the highest likelihood a byte after ``prompt``, read from
    ``state`` (1, ...)."""
    scores = [s for s, _ in log_likelihoods(model, coder, prompt, endings, state)]
    return max(range(len(endings)), key=lambda i: scores[i] / len(endings[i].encode()))


def multiple_choice(model: SequenceModel, coder: Coder, path: Path) -> float:
    """Return the share of right answers to the lines of a JSONL file, {"question": ..., "choices":
    [...], "answer": the number of the right one, from 0}. Raises ``ValueError`` for other lines."""
    rows = _rows(path, {"question": str, "choices": list, "answer": int})
    for number, row in rows:
        count = len(row["choices"])
        if not all(isinstance(choice, str) and choice for choice in row["choices"]):
            raise ValueError(f"{str(path)!r}, line {number}: choices are texts, not empty")
        if not 0 <= row["answer"] < count:
            raise ValueError(
                f"{str(path)!r}, line {number}: the answer is the number of one of {count} choices,"
                f" from 0, but got {row['answer']}"
            )
    return share_chosen(model, coder, [row for _, row in rows])


def share_chosen(model: SequenceModel, coder: Coder, rows: Sequence[dict[str, Any]]) -> float:
    """Return the share of right answers to questions as in ``multiple_choice``."""
    asked = [(row, best_choice(model, coder, row["question"], row["choices"])) for row in rows]
    return sum(choice == row["answer"] for row, choice in asked) / len(rows)


def class_incremental(
    model: SequenceModel, coder: Coder, path: Path, classes_per_task: int = 2
) -> list[dict[str, float]]:
    """Classify texts whose classes come one after another, by the likelihood of their labels.

    ``path`` is a JSONL file of {"text": ..., "label": ...}. The model reads four of five texts of
    each class with their labels, a few classes at a time. Returns after each task how many
    "classes" there were so far, and the accuracy on their other texts, with the memory "live", or
    "frozen" so that it writes nothing. Raises ``ValueError`` for other lines."""
    rows = _rows(path, {"text": str, "label": str})
    texts: dict[str, list[str]] = {}
    for number, row in rows:
        if not row["label"]:
            raise ValueError(f"{str(path)!r}, line {number}: the label is empty")
        texts.setdefault(row["label"], []).append(row["text"])
    labels, results = list(texts), []
    states: dict[str, State | None] = {"live": None, "frozen": None}
    for at in range(0, len(labels), classes_per_task):
        for label in labels[at : at + classes_per_task]:
            for number, text in enumerate(texts[label]):
                if number % TESTED:
                    told = [LABELLED.format(text) + f"{label}\n\n"]
                    for way, state in states.items():
                        frozen = way == "frozen"
                        states[way] = read_texts(model, coder, told, state, frozen=frozen)
        so_far = labels[: at + classes_per_task]
        tests = [(text, i) for i, label in enumerate(so_far) for text in texts[label][::TESTED]]
        result = {"classes": len(so_far)}
        for way, state in states.items():
            chosen = [
                best_choice(model, coder, LABELLED.format(text), so_far, state) for text, _ in tests
            ]
            result[way] = sum(c == i for c, (_, i) in zip(chosen, tests)) / len(tests)
        results.append(result)
    return results


def _rows(path: Path, kinds: dict[str, type]) -> list[tuple[int, dict[str, Any]]]:
    try:
        rows = list(json_lines(path.read_bytes(), str(path), kinds))
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if not rows:
        raise ValueError(f"{str(path)!r} has no lines")
    return rows


def lm_eval_model(model: SequenceModel, coder: Coder) -> Any:
    """Wrap ``model`` for the library ``lm_eval``, as ``lm_eval.simple_evaluate(model=...)`` takes
    it. Raises ``ValueError`` if the library is missing."""
    needed("lm_eval", "lm-eval")
    from lm_eval.api.model import LM

    class Adapter(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            asked = [request.args for request in requests]
            return [log_likelihoods(model, coder, context, [end])[0] for context, end in asked]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            texts = [request.args[0] for request in requests]
            return [log_likelihoods(model, coder, "", [text])[0][0] for text in texts]

        def generate_until(self, requests: list[Any]) -> list[str]:
            texts = []
            for context, settings in (request.args for request in requests):
                stop = settings.get("until", [])
                stop = [stop] if isinstance(stop, str) else stop
                more = {"temperature": settings.get("temperature", 0.0), "stop": stop}
                limit = settings.get("max_gen_toks", 256)
                texts.append("".join(generate(model, coder, context, limit, **more)))
            return texts

    return Adapter()
