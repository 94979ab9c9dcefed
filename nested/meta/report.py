"""What came out of a race, as a table, a verdict in plain words and a picture.

Everything here takes a ``RaceResult`` and the name of the rule in it, and raises ``KeyError`` for a
name that did not race. Source: the words are ours, the numbers are those of ``nested.meta.race``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from nested.meta.history import MetaHistory
from nested.meta.race import RaceResult
from nested.support.plots import (
    draw_bars,
    draw_curves,
    draw_signal,
    new_figure,
    plain_log_scale,
    save_figure,
)

SURE = 2.0  # standard errors from which a paired difference counts
SMALL = 0.02  # share of the loss under which a difference does not matter


def table(result: RaceResult, name: str) -> str:
    """The race as text: one line an entrant, best mean loss first; ``name`` is the rule's. Raises
    ``KeyError`` for a name that did not race."""
    means = {other: result.estimate(other).mean for other in result.entries}
    order = sorted(means, key=lambda other: (math.isnan(means[other]), means[other]))
    head = f"{'':<26}{'mean loss':>16}{'final loss':>17}{'accuracy':>10}   paired with the rule"
    lines = [f"{result.horizon} inner steps, {_tasks(result, name)} held-out tasks", head]
    for other in order:
        entry = result.entries[other]
        mean, final = result.estimate(other), result.estimate(other, "final")
        accuracy = "" if entry.accuracy is None else f"{entry.accuracy.mean().item():.1%}"
        paired = result.paired(name, other)
        difference = "" if other == name else f"{paired.mean:+.3f} +- {paired.error:.3f}"
        losses = f"{mean.mean:>8.3f} +- {mean.error:.3f}{final.mean:>9.3f} +- {final.error:.3f}"
        line = f"{other:<26}{losses}{accuracy:>10}   {difference:<17} {entry.settings}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _tasks(result: RaceResult, name: str) -> int:
    return len(result.entries[name].losses)


def _the(other: str) -> str:
    if other.endswith(", replayed"):
        return "its own schedule replayed blindly"
    return f"the {other}" if other.startswith("best") else other


def compare(result: RaceResult, name: str, other: str, what: str = "mean") -> str:
    """One comparison in words: "beats Adam by 7%", "loses to ...", "cannot be told from ..."; a
    difference counts from ``SURE`` standard errors. Raises ``KeyError`` for a name that did not
    race."""
    paired, gain = result.paired(name, other, what), result.gain(name, other, what)
    if not math.isfinite(result.estimate(name, what).mean):
        return f"diverges on some tasks, so cannot be held against {_the(other)}"
    if not math.isfinite(paired.mean):
        return f"beats {_the(other)}, which diverges on some tasks"
    if not abs(paired.mean) > SURE * paired.error:
        return f"cannot be told from {_the(other)}"
    if paired.mean > 0:
        return f"beats {_the(other)} by {gain:.0%}"
    return f"loses to {_the(other)} by {-gain:.0%}"


def verdict(short: RaceResult, long: RaceResult, name: str) -> str:
    """What was learned, in plain words, from a short race and one much longer. Raises ``KeyError``
    where the rule, its replay, the best constant, the best decay or Adam did not race."""
    replay = f"{name}, replayed"
    lines = [f"At {short.horizon} steps the rule {compare(short, name, 'best constant')},"]
    lines.append(f"  {compare(short, name, 'best decay')}, and {compare(short, name, replay)}:")
    worth, gain = short.paired(name, replay), short.gain(name, replay)
    if worth.mean > SURE * worth.error:
        lines.append("  it reacts to what it sees; it has learned more than a schedule.")
    elif abs(gain) < SMALL:
        lines.append("  what it learned is a schedule; seeing the loss does not help it.")
    else:
        lines.append("  whether it reacts, or follows a schedule, these tasks cannot tell.")
    lines.append(f"  It {compare(short, name, 'Adam')}, which scales every coordinate on its own.")
    lines.append(
        f"At {long.horizon} steps, each tuned for that many, it"
        f" {compare(long, name, 'best constant')}"
    )
    final = compare(long, name, "best constant", "final")
    lines.append(f"  (by its final loss it {final}) and {compare(long, name, 'Adam')}.")
    return "\n".join(lines)


def draw_report(
    path: Path | str,
    races: Sequence[RaceResult],
    history: MetaHistory,
    name: str,
    *,
    title: str,
) -> None:
    """Draw one or two races (curves, mean losses), the signals in the last, and the meta-loss, as a
    PNG at ``path``. Raises ``ValueError`` when it cannot be written, ``KeyError`` for a rule
    without signals lr and momentum."""
    figure, (top, bottom) = new_figure(2, 3)
    for axes, result in zip(top, races):
        curves = {other: result.curve(other) for other in result.entries}
        dashed = [other for other in curves if other.endswith("replayed")]
        draw_curves(axes, curves, highlight=name, dashed=dashed)
        note = "bands: 2 standard errors; last point: query data"
        axes.set_title(f"{result.horizon} steps ({note})", fontsize=8)
    if len(races) == 1:
        top[1].set_axis_off()
    means = {other: races[0].estimate(other) for other in races[0].entries}
    draw_bars(top[2], means, highlight=name)
    top[2].set_title(f"mean loss over {races[0].horizon} steps, shorter is better", fontsize=9)
    signals = races[-1].entries[name].signals
    draw_signal(bottom[0], signals["lr"], "learning rate", logarithmic=True)
    draw_signal(bottom[1], signals["momentum"], "momentum", logarithmic=False)
    for axes in bottom[:2]:
        axes.set_title("what the rule chose, a line a held-out task", fontsize=9)
    _draw_history(bottom[2], history)
    figure.suptitle(title)
    save_figure(figure, path)


def _draw_history(axes: Axes, history: MetaHistory) -> None:
    kept = [r for r in history.records if not r.skipped]
    for label, chosen in (
        ("first window of a run", [r for r in kept if r.inner_step == 0]),
        ("later windows", [r for r in kept if r.inner_step > 0]),
    ):
        axes.plot([r.step for r in chosen], [r.meta_loss for r in chosen], ".", ms=3, label=label)
    axes.set(xlabel="meta-step", ylabel="meta-loss")
    plain_log_scale(axes)
    axes.set_title("meta-training: the loss level 4 learns to lower", fontsize=9)
    axes.legend(fontsize=7)
