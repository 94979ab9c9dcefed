"""The report of a comparison: a table, JSON, and pictures.

Letters: T tasks. Source: ``nested.continual.metrics``.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nested.continual.config import ContinualConfig
from nested.continual.experiment import Comparison, budget_of
from nested.continual.metrics import (
    METRICS,
    average_accuracy,
    forgetting,
    forward_transfer,
)
from nested.continual.nets import build_net
from nested.continual.registry import STRATEGIES
from nested.continual.run import Result
from nested.continual.stream import ORIGINS, Stream
from nested.support.files import save_json, write_whole
from nested.support.intervals import interval
from nested.support.plots import COLOURS, TEXT_SIZE, new_figure, save_figure, whole_steps

Rows = dict[str, dict[str, tuple[float, float]]]


def scores(result: Result) -> dict[str, float]:
    """Compute all metrics of one ``result``."""
    values = {name: metric(result.matrix) for name, metric in METRICS.items()}
    values["forward transfer"] = forward_transfer(result.matrix, result.untrained)
    sizes = {"numbers": float(result.numbers), "KiB": result.kept / 1024}
    return {**values, "CPU seconds": result.seconds, **sizes}


def table(comparison: Comparison) -> Rows:
    """Compute {strategy: {metric: (mean, half of its 95 % interval)}}."""
    rows: Rows = {}
    for name, results in comparison.results.items():
        each = [scores(result) for result in results]
        rows[name] = {metric: interval([row[metric] for row in each]) for metric in each[0]}
    return rows


def in_markdown(rows: Rows) -> str:
    """Write ``rows`` as a table in Markdown, the most accurate strategy first."""
    metrics = list(next(iter(rows.values())))
    lines = [["strategy", *metrics], ["---"] * (len(metrics) + 1)]
    for name in sorted(rows, key=lambda name: -rows[name]["accuracy"][0]):
        cells = []
        for metric, (mean, half) in rows[name].items():
            digits = {"CPU seconds": f"{mean:.1f}"}
            digits |= {"numbers": f"{mean:,.0f}", "KiB": f"{mean:,.0f}"}
            cells.append(digits.get(metric, f"{mean:.3f}{_spread(half)}"))
        lines.append([name, *cells])
    return _lines(lines)


def differences(comparison: Comparison, best: str) -> str:
    """Write a table in Markdown of how far each strategy is from ``best``, on the same streams."""
    lines = [[f"minus {best}", "accuracy", "forgetting"], ["---"] * 3]
    for name, results in comparison.results.items():
        pairs = [(a.matrix, b.matrix) for a, b in zip(results, comparison.results[best])]
        cells = []
        for metric in (average_accuracy, forgetting):
            mean, half = interval([metric(a) - metric(b) for a, b in pairs])
            cells.append(f"{mean:+.3f}{_spread(half)}")
        lines += [[name, *cells]] if name != best else []
    return _lines(lines)


def near_an_end(comparison: Comparison) -> str:
    """List the tuned numbers within a fifth of an end of their range: a wider range may help."""
    return ", ".join(
        f"{name}: {key} {value:g}"
        for name, settings in comparison.settings.items()
        for key, value in settings.items()
        for low, high in [STRATEGIES[name].ranges[key]]
        if not 1.25 * low <= value <= 0.8 * high
    )


def _spread(half: float) -> str:
    return "" if half == float("inf") else f" ± {half:.3f}"


def _lines(lines: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def save_report(comparison: Comparison, config: ContinualConfig, stream: Stream, out: Path) -> str:
    """Save report.json, report.md and the pictures in the folder ``out``. Returns the table."""
    rows = table(comparison)
    budget = budget_of(
        config, build_net(stream.shape, len(stream.names), config.net, config.width), stream
    )
    larger = sorted(name for name, row in rows.items() if row["numbers"][0] > budget)
    note = f"\nMore than the {budget:,} numbers of the others: {', '.join(larger)}.\n"
    text = in_markdown(rows) + (note if larger else "")
    others = [name for name in rows if name not in larger] or list(rows)
    best = max(others, key=lambda name: rows[name]["accuracy"][0])
    if ends := near_an_end(comparison):
        text += f"\nNear an end of the range of its tuning: {ends}.\n"
    if len(rows) > 1:
        text += f"\nDifferences to {best} on the same streams:\n\n{differences(comparison, best)}"
    content: dict[str, Any] = {"config": asdict(config), "table": rows}
    content["settings"] = comparison.settings
    content["matrices"] = {
        name: [result.matrix.tolist() for result in results]
        for name, results in comparison.results.items()
    }
    content["moves"] = {name: results[0].moves for name, results in comparison.results.items()}
    save_json(out / "report.json", content)
    page = f"{text}\n```\n{stream.describe()}\n```\n"
    write_whole(out / "report.md", lambda path: path.write_text(page, encoding="utf-8"))
    draw_matrices(comparison, out / "matrices.png")
    draw_curves(comparison, rows, out / "accuracy.png")
    draw_moves(comparison, out / "moves.png")
    draw_stream(stream, out / "stream.png")
    return text


def draw_matrices(comparison: Comparison, path: Path) -> None:
    """Draw the mean matrix of accuracies of each strategy."""
    names = list(comparison.results)
    columns = min(4, len(names))
    figure, grid = new_figure(-(-len(names) // columns), columns, width=2.6, height=2.4)
    panels = grid.flatten()
    for name, axes in zip(names, panels):
        mean = torch.stack([result.matrix for result in comparison.results[name]]).mean(0)
        axes.imshow(mean, cmap="Blues", vmin=0, vmax=1.2)
        for t, row in enumerate(mean.tolist() if len(mean) <= 6 else ()):
            for i, share in enumerate(row):
                colour = "white" if share > 0.7 else "black"
                axes.text(i, t, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=7)
        axes.set_title(name, fontsize=TEXT_SIZE)
        axes.set_xticks(range(len(mean)))
        axes.set_yticks(range(len(mean)))
    for axes in panels[len(names) :]:
        axes.axis("off")
    figure.suptitle("Accuracy on task i (column) after task t (row)", fontsize=TEXT_SIZE + 2)
    save_figure(figure, path)


def draw_curves(comparison: Comparison, rows: Rows, path: Path) -> None:
    """Draw the accuracy on the tasks so far through time, and accuracy against forgetting."""
    figure, ((left, right),) = new_figure(1, 2)
    for i, (name, results) in enumerate(comparison.results.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": "os^"[i // len(COLOURS)]}
        mean = torch.stack([result.matrix for result in results]).mean(0)
        so_far = [float(row[: t + 1].mean()) for t, row in enumerate(mean)]
        left.plot(range(1, len(so_far) + 1), so_far, label=name, markersize=4, **style)
        (x, dx), (y, dy) = (rows[name][metric] for metric in ("forgetting", "accuracy"))
        errors = {"xerr": dx, "yerr": dy} if len(results) > 1 else {}
        right.errorbar(x, y, fmt=style["marker"], color=style["color"], **errors)
    left.set(xlabel="tasks learned", ylabel="accuracy on the tasks so far", ylim=(0, 1))
    left.set_title("Accuracy through time", fontsize=TEXT_SIZE)
    whole_steps(left)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    right.set(xlabel="forgetting (95 % interval)", ylabel="accuracy after the last task")
    right.set_title("Best is top left", fontsize=TEXT_SIZE)
    save_figure(figure, path)


def draw_moves(comparison: Comparison, path: Path) -> None:
    """Draw how often each level of each strategy has moved."""
    bars = {
        f"{name}: {level}": statistics.mean(result.moves[level][-1] for result in results)
        for name, results in comparison.results.items()
        for level in results[0].moves
    }
    figure, ((axes,),) = new_figure(1, 1, width=6, height=1 + 0.22 * len(bars))
    axes.barh(list(bars), list(bars.values()), color=COLOURS[0])
    axes.invert_yaxis()
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.set_xscale("log")
    axes.set_xlabel("moves in a stream", fontsize=TEXT_SIZE)
    axes.set_title("How often each level moved", fontsize=TEXT_SIZE)
    save_figure(figure, path)


def draw_stream(stream: Stream, path: Path) -> None:
    """Draw what came when: the class of each example, and why it came."""
    figure, ((axes,),) = new_figure(1, 1, width=8, height=3.2)
    start, ends = 0, []
    for task in stream.tasks:
        places = torch.arange(len(task.y)) + start
        for number, name in enumerate(ORIGINS):
            mine = task.origins == number
            label = name if not start else None
            more = {"color": COLOURS[number], "label": label, "s": 4 if number == 0 else 10}
            axes.scatter(places[mine], task.y[mine], linewidths=0, zorder=1 + number, **more)
        start += len(task.y)
        ends.append(start)
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color="grey", linewidth=0.8)
    axes.set(xlabel="example of the stream", ylabel="class")
    axes.set_yticks(range(0, len(stream.names), max(1, len(stream.names) // 10)))
    axes.set_title(f"What comes when, in a stream of kind {stream.kind!r}", fontsize=TEXT_SIZE)
    figure.legend(loc="outside lower center", ncols=4, fontsize=TEXT_SIZE, markerscale=2)
    save_figure(figure, path)
