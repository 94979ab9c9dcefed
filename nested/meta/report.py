"""What came out of a race: a table, a verdict in plain words, and a picture.

Everything here takes a ``RaceResult`` and the name of the rule in it, and raises ``KeyError`` for a
name that did not race.

Source: the numbers are those of ``nested.meta.race``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

from nested.meta.history import MetaHistory
from nested.meta.race import RaceResult
from nested.support.plots import (
    COLOURS,
    TEXT_SIZE,
    draw_bars,
    draw_curves,
    draw_signal,
    draw_trend,
    legend_below,
    new_figure,
    plain_log_scale,
    save_figure,
    split_panel,
)

SCHEDULE = "learned schedule"  # the rival that sees only a clock, meta-trained like the rule
UNTRAINED = "untrained"  # the rule before meta-training
CARRIED_ON = "constant of the short race"
TITLE_SIZE = TEXT_SIZE + 1
SHADES = matplotlib.colormaps["Blues"]([0.45, 0.6, 0.75, 0.95])  # tasks of the rule, which is blue
SURE = 2.0  # standard errors from which a paired difference counts
SMALL = 0.02  # share of the loss under which a difference does not matter

COLUMNS = """
Tables list the optimizers raced, the best first. "+-" is a standard error over held-out tasks.
  mean loss       the loss averaged over all steps of a run: low when training is fast
  final loss      the loss after the last step, on fresh examples
  accuracy        the share of fresh examples that the trained net gets right
  above the rule  the mean loss minus that of the rule, task by task
  settings        what tuning chose; "1 to 0.1" is the value at the first and the last step
"""


def table(result: RaceResult, name: str) -> str:
    """The race as text: one line an entrant, best mean loss first; ``name`` is the rule's.

    ``COLUMNS`` explains each column. Raises ``KeyError`` for a name that did not race."""
    means = {other: result.estimate(other).mean for other in result.entries}
    order = sorted(means, key=lambda other: (math.isnan(means[other]), means[other]))
    head = f"{'':<26}{'mean loss':>16}{'final loss':>17}{'accuracy':>10}"
    head += f"   {'above the ' + name.removeprefix('the '):<17} settings"
    tasks = len(result.entries[name].losses)
    lines = [f"{result.horizon} inner steps, {tasks} held-out tasks", head]
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


def _the(other: str) -> str:
    if other.endswith(", replayed"):
        return "its own average schedule, replayed blindly,"
    return f"the {other}" if other.startswith(("best", "learned")) else other


def compare(result: RaceResult, name: str, other: str, score: str = "mean") -> str:
    """One comparison in words: "beats Adam by 7%", "loses to ... by ...", "ties with ...".

    A difference under ``SURE`` standard errors is a tie. Raises ``KeyError`` for a name that did
    not race."""
    paired, gain = result.paired(name, other, score), result.gain(name, other, score)
    if not math.isfinite(result.estimate(name, score).mean):
        return f"diverges on some tasks, so cannot be compared with {_the(other)}".rstrip(",")
    if not math.isfinite(paired.mean):
        return f"beats {_the(other).rstrip(',')}, which diverges on some tasks"
    if not abs(paired.mean) > SURE * paired.error:
        return f"ties with {_the(other).rstrip(',')}"
    if paired.mean > 0:
        return f"beats {_the(other)} by {gain:.0%}"
    return f"loses to {_the(other)} by {-gain:.0%}"


def verdict(short: RaceResult, long: RaceResult, name: str) -> str:
    """Say in plain words what was learned, from a short race and a longer one.

    The first comparison is with the learned schedule. Raises ``KeyError`` where the rule, its
    replay, ``SCHEDULE``, the best constant, the best decay or Adam did not race."""
    against = {other: compare(short, name, other) for other in short.entries if other != name}
    later = {other: compare(long, name, other) for other in long.entries if other != name}
    final = compare(long, name, "best constant", "final")
    return "\n".join(
        [
            f"At {short.horizon} steps the rule {against[SCHEDULE]}. That rival sees only a clock.",
            f"  {_worth(short, name)}",
            f"  It {against[f'{name}, replayed']}.",
            f"  It {against['best constant']}, and {against['best decay']}.",
            f"  It {against['Adam']}. Adam scales every coordinate separately.",
            f"At {long.horizon} steps the rule {later[SCHEDULE]}.",
            f"  It {later['best constant']}, and {later['Adam']}, each tuned for that length.",
            f"  By its final loss it {final}.",
        ]
    )


def _worth(short: RaceResult, name: str) -> str:
    """What seeing the run is worth, over a schedule meta-trained in the same way."""
    paired, gain = short.paired(name, SCHEDULE), short.gain(name, SCHEDULE)
    if paired.mean > SURE * paired.error:
        return "So it reacts to the run it is in: it has learned more than a schedule."
    if abs(gain) < SMALL:
        return "So what it has learned is no better than a schedule."
    if paired.mean < -SURE * paired.error:
        return "So it is worse than a schedule: what it sees of the run does not help it."
    return "Whether it reacts, or follows a schedule, these tasks do not show."


def draw_report(
    path: Path | str,
    races: Sequence[RaceResult],
    history: MetaHistory,
    name: str,
    *,
    title: str,
) -> None:
    """Draw one or two races, the signals in the first, and the meta-loss, as a PNG at ``path``.

    Raises ``ValueError`` when it cannot be written, ``KeyError`` for a rule without signals lr and
    momentum."""
    figure, ((before, feedback), (longer, bars), (signals, learning)) = new_figure(3, 2, height=3.4)
    first, last = races[0], races[-1]
    note = "diamond: fresh examples"
    contents = [UNTRAINED, "best constant", name, "Adam"]
    whole = len(first.entries) <= 5  # a race without baselines
    _draw_some(before, first, list(first.entries) if whole else contents, name, races)
    before.set_title(f"before and after learning ({note})", fontsize=TITLE_SIZE)
    contents = [SCHEDULE, f"{name}, replayed", "best decay", name]
    _draw_some(feedback, first, [] if whole else contents, name, races)
    feedback.set_title("does the rule react, or follow a schedule?", fontsize=TITLE_SIZE)
    contents = [SCHEDULE, "best constant", name, "Adam"]
    _draw_some(longer, last, contents if len(races) > 1 else [], name, races)
    longer.set_title(f"a longer race: {last.horizon} steps", fontsize=TITLE_SIZE)
    means = {other: first.estimate(other) for other in first.entries}
    draw_bars(bars, means, highlight=name, colours=_colours(list(means), races))
    bars.set_title(f"mean loss over {first.horizon} steps: less is better", fontsize=TITLE_SIZE)
    _draw_choices(signals, first, name, races)
    _draw_history(learning, history)
    figure.suptitle(title)
    save_figure(figure, path)


def draw_before_after(path: Path | str, races: Sequence[RaceResult], name: str) -> None:
    """Draw the first of ``races`` alone: untrained rule, best constant, learned rule and Adam.

    Losses are means over tasks, in the task's unit; a PNG at ``path``. Raises ``ValueError`` when
    it cannot be written."""
    figure, ((axes,),) = new_figure(1, 1, width=7.2)
    _draw_some(axes, races[0], [UNTRAINED, "best constant", name, "Adam"], name, races)
    axes.set_title("Level 4 before and after it learned to train (diamond: fresh examples)")
    save_figure(figure, path)


def _colours(names: Sequence[str], races: Sequence[RaceResult]) -> list:
    """One colour a name, the same in every panel."""
    order = list(dict.fromkeys(name for result in races for name in result.entries))
    return [COLOURS[order.index(name) % len(COLOURS)] for name in names]


def _draw_some(
    axes: Axes, result: RaceResult, names: list[str], highlight: str, races: Sequence[RaceResult]
) -> None:
    """Draw the curves of those ``names`` that raced; hide the panel if there are none."""
    curves = {name: result.curve(name) for name in names if name in result.entries}
    if not curves:
        axes.set_axis_off()
        return
    dashed = [name for name in curves if name in (SCHEDULE, f"{highlight}, replayed")]
    colours = _colours(list(curves), races)
    draw_curves(axes, curves, highlight=highlight, dashed=dashed, colours=colours)


def _draw_choices(axes: Axes, result: RaceResult, name: str, races: Sequence[RaceResult]) -> None:
    """Draw the rate and the momentum: a line a task for the rule, one for the schedule."""
    for half, signal, is_rate in zip(split_panel(axes), ("lr", "momentum"), (True, False)):
        label = "learning rate" if is_rate else "momentum"
        draw_signal(half, result.entries[name].signals[signal], label, logarithmic=is_rate)
        for line, shade in zip(half.lines, SHADES):
            line.set_color(shade)
        if SCHEDULE in result.entries:
            (colour,) = _colours([SCHEDULE], races)
            schedule = result.entries[SCHEDULE].signals[signal][0]
            half.plot(schedule, "--", linewidth=2.2, color=colour, label=SCHEDULE)
        if is_rate:
            half.set(xlabel="", xticklabels=[])
            half.set_title("what the rule chose, a line for each of 4 tasks", fontsize=TITLE_SIZE)
        elif SCHEDULE in result.entries:
            half.legend(fontsize=TEXT_SIZE, loc="lower left")


def _draw_history(axes: Axes, history: MetaHistory) -> None:
    records = [r for r in history.records if not r.skipped]
    starts = sorted({r.inner_step for r in records})[:3]
    for start, which in zip(starts, ("first", "second", "third")):
        chosen = [r for r in records if r.inner_step == start]
        steps, losses = [r.step for r in chosen], [r.meta_loss for r in chosen]
        draw_trend(axes, steps, losses, f"{which} window of a run")
    axes.set(xlabel="meta-step", ylabel="meta-loss")
    plain_log_scale(axes)
    axes.set_title("meta-training: does the meta-loss go down?", fontsize=TITLE_SIZE)
    if starts:
        legend_below(axes)
