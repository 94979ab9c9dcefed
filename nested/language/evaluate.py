"""Measure a language model: held-out text, long text, recall, forgetting; one report of it all.

Letters: B texts side by side, T tokens.
Source: Behrouz et al. 2025 (arXiv 2512.24695), which claims long memory and little forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from nested.language.choices import class_incremental, multiple_choice, share_chosen
from nested.language.coder import Coder
from nested.language.measures import bits_of_bytes, bits_per_byte, even_pieces, token_losses
from nested.language.recall import recall_at, recall_facts
from nested.language.text import ABOUT, Documents, Text, prepare
from nested.levels.forward import State
from nested.models.model import SequenceModel
from nested.support.files import prepare_folder, save_json, write_whole
from nested.support.plots import COLOURS, new_figure, save_figure
from nested.tasks.facts import fillers
from nested.tasks.next_line import next_line_questions
from nested.tasks.sources import documents

EDGES = (0, 64, 256, 512, 1024, 2048, 4096, 8192)  # positions in a text, in tokens
DISTANCES = (128, 512, 2048, 8192)  # bytes between a fact and its question
DOMAINS = ("stdlib", "spanish")  # that are read between two pieces of held-out text
MOST_DOCUMENTS = 200  # read of each
READ, SCORED, PIECE = 4096, 1024, 512  # tokens
RECALLED = ("facts", "needle", "passkey")
Report = dict[str, Any]


def evaluate(
    model: SequenceModel,
    coder: Coder,
    out: Path,
    *,
    data: Sequence[str] = ("shakespeare",),
    classes: Path | None = None,
    choices: Path | None = None,
    quick: bool = False,
    seed: int = 0,
    show: Callable[[str], None] = print,
) -> Report:
    """Measure ``model`` on what ``prepare`` holds out of ``data``, and save the report in the
    folder ``out``: report.json, report.md with its tables, and report.png.

    ``classes`` and ``choices`` are files of ``class_incremental`` and ``multiple_choice``. The
    "next line" is chosen among four lines of the held-out text. Chance is 0.25.
    ``quick`` takes a quarter of the texts, and short ones. Raises ``ValueError`` for files that
    cannot be read, and for held-out text that is too short."""
    prepare_folder(out, "report.json", "report.md", "report.png")
    texts, source = held_out_texts(data, out / "text"), Generator().manual_seed(seed)
    ours, count = encoded(coder, texts), 4 if quick else 16
    pieces = even_pieces(ours, count, 2 * SCORED)  # refuses a short text before any work
    report: Report = {}
    if classes:
        report["classes"] = class_incremental(model, coder, classes)
    if choices:
        report["choices"] = multiple_choice(model, coder, choices)
    prose = [text.decode("utf-8", "replace") for text in texts]
    if questions := next_line_questions(prose, 16 * count, source):
        report["next line"] = share_chosen(model, coder, questions)
    for name, result in report.items():
        show(f"{name}: {result}")
    report["bits a byte"] = bits_per_byte(model, coder, pieces[:, : SCORED + 1])
    show(f"{report['bits a byte']:.3f} bits a byte of held-out text")
    longest = min(1024 if quick else EDGES[-1], max(ours.lengths) - 1)
    report["by position"] = by_position(model, coder, ours, count, longest)
    report |= recalled(model, coder, " ".join(prose), source, count, show)
    read = min(READ // 8 if quick else READ, (max(ours.lengths) - SCORED - 1) // 2)
    report["forgetting"] = all_forgetting(model, coder, ours, count // 4, read, show)
    save_json(out / "report.json", report)
    pages = tables(report)
    write_whole(out / "report.md", lambda path: path.write_text(pages, encoding="utf-8"))
    draw(report, out / "report.png")
    return report


def tables(report: Report) -> str:
    """Write ``report`` in Markdown: a table for each measure."""
    pages = ""
    for name, result in report.items():
        result = dict(enumerate(result, 1)) if isinstance(result, list) else result
        rows = result if isinstance(result, dict) else {"": {"": result}}
        rows = rows if isinstance(next(iter(rows.values())), dict) else {"": rows}
        head = [name, *map(str, next(iter(rows.values())))]
        lines = [head, ["---"] * len(head)]
        lines += [
            [str(row), *(f"{x:.3f}" for x in values.values())] for row, values in rows.items()
        ]
        pages += "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
    return pages


def recalled(
    model: SequenceModel,
    coder: Coder,
    prose: str,
    source: Generator,
    count: int,
    show: Callable[[str], None],
) -> Report:
    """Ask for facts after ever more bytes. The "facts" are 20 in 2,000 bytes, a "needle" is one in
    ``prose``, and a "passkey" is one in a few sentences again and again.

    Returns {name: {bytes: {way: share of right answers}}}."""
    report: Report = {name: {} for name in RECALLED}
    for distance in (0, *DISTANCES)[: 5 if count > 4 else 3]:
        after = fillers(count, distance, source)
        runs = [
            recall_facts(model, coder, 20, 2000, source, text[:distance] + "\n" * (distance > 0))
            for text in after[: max(1, count // 3)]
        ]
        report["facts"][distance] = {
            way: sum(run[way] for run in runs) / len(runs) for way in runs[0]
        }
        for name, hay in (("needle", _cut(prose, count, distance)), ("passkey", after)):
            if hay:
                report[name][distance] = recall_at(model, coder, distance, hay, source)
        for name in RECALLED:
            if distance in report[name]:
                show(f"{name} after {distance} bytes: {_listed(report[name][distance])}")
    return report


def held_out_texts(data: Sequence[str], folder: Path) -> list[bytes]:
    """Return the documents that ``prepare`` holds out of ``data``, as bytes."""
    is_ready = len(data) == 1 and (Path(data[0]) / ABOUT).is_file()
    text = Text(data[0]) if is_ready else prepare(data, folder, show=lambda line: None)
    side = text.held_out
    return [text.coder.decode(side.tokens(i).tolist()) for i in range(len(side))]


def encoded(coder: Coder, texts: Sequence[bytes]) -> Documents:
    """Turn ``texts`` into documents of tokens."""
    rows = [np.array(coder.encode(text)) for text in texts]
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
    index = [(0, start, len(row)) for start, row in zip(starts, rows)]
    return Documents([np.concatenate(rows)], np.array(index))


def by_position(
    model: SequenceModel, coder: Coder, texts: Documents, count: int, size: int
) -> dict[str, float]:
    """Compute bits a byte at the positions between ``EDGES`` of ``count`` texts of ``size``
    tokens."""
    pieces = even_pieces(texts, count, size)
    losses, tokens = token_losses(model, pieces), pieces[:, 1:]
    spans = [(a, b) for a, b in zip(EDGES, EDGES[1:]) if b <= size]
    return {f"{a} to {b}": bits_of_bytes(losses[:, a:b], coder, tokens[:, a:b]) for a, b in spans}


def all_forgetting(
    model: SequenceModel,
    coder: Coder,
    ours: Documents,
    count: int,
    read: int,
    show: Callable[[str], None],
) -> Report:
    """Measure ``forgetting`` of ``ours`` for each of ``DOMAINS``: {domain: {moment: bits}}."""
    report = {}
    for domain in DOMAINS:
        first = islice(documents(domain), MOST_DOCUMENTS)
        theirs = encoded(coder, [content for _, content in first])
        report[domain] = forgetting(model, coder, ours, theirs, count, read)
        show(f"bits a byte, read on to {domain}: {_listed(report[domain])}")
    return report


def forgetting(
    model: SequenceModel, coder: Coder, ours: Documents, theirs: Documents, count: int, read: int
) -> dict[str, float]:
    """Compute bits a byte of one new text of ``ours`` at four moments. "At first" nothing was read.
    Then come ``read`` tokens of "ours", of "theirs", and of "ours again"."""
    pieces = even_pieces(ours, count, 2 * read + SCORED)
    first, new, again = pieces.split([read, SCORED + 1, read], dim=1)
    other = even_pieces(theirs, len(pieces), read)[:, :read]
    moments, state = {}, None
    parts = {"at first": first[:, :0], "ours": first, "theirs": other, "ours again": again}
    for name, tokens in parts.items():
        state = read_on(model, tokens, state) if tokens.numel() else state
        moments[name] = bits_of_bytes(token_losses(model, new, state), coder, new[:, 1:])
    return moments


@torch.no_grad()
def read_on(model: SequenceModel, tokens: Tensor, state: State | None) -> State:
    """Read ``tokens`` (B, T) on from ``state`` (B, ...), and return the state after them."""
    for piece in tokens.to(next(model.parameters()).device).split(PIECE, dim=1):
        state = model(piece, state)[1]
    return state


def _cut(text: str, count: int, size: int) -> list[str]:
    """``count`` pieces of ``size`` characters, evenly spread. A text shorter than that has none."""
    step = (len(text) - size) / count
    return [text[int(i * step) :][:size] for i in range(count)] if step >= 0 else []


def _listed(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.items())


def draw(report: Report, path: Path) -> None:
    """Draw bits by position, recall by distance, and forgetting."""
    figure, ((left, middle, right),) = new_figure(1, 3)
    spans = report["by position"]
    left.plot(range(len(spans)), list(spans.values()), marker="o")
    left.set_xticks(range(len(spans)), list(spans), rotation=45, ha="right")
    left.set(title="Long text, by position", ylabel="bits a byte")
    for name, colour in zip(RECALLED, COLOURS):
        for way, style in (("live", "-"), ("frozen", ":")):
            shares = [shares[way] for shares in report[name].values()]
            more = {"color": colour, "marker": "o", "label": f"{name}, {way}"}
            middle.plot(list(report[name]), shares, style, **more)
    middle.set(title="Recall of facts", xlabel="bytes read since", ylim=(-0.05, 1.05))
    middle.set_xscale("symlog", base=2, linthresh=DISTANCES[0])
    middle.legend()
    for domain, moments in report["forgetting"].items():
        right.plot(list(moments), list(moments.values()), marker="o", label=f"theirs: {domain}")
    right.set(title="New text after reading", ylabel="bits a byte")
    right.legend()
    save_figure(figure, path)
