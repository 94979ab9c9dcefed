"""Pictures, drawn without a screen and moved into place whole. Plain numbers in, a PNG out.

Letters: T tasks, K inner steps. Lengths are inches, as matplotlib's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from nested.support.files import write_whole

COLOURS = matplotlib.color_sequences["tab10"]
TEXT_SIZE = 9  # points: readable where a page shows the picture 800 pixels wide


def new_figure(rows: int, columns: int, width: float = 4.6, height: float = 3.6) -> tuple:
    """Return (figure, axes): a grid of panels, each ``width`` x ``height`` inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def split_panel(axes: Axes) -> tuple[Axes, Axes]:
    """Replace a panel of ``new_figure`` by two, one above the other; return (upper, lower)."""
    halves = axes.get_subplotspec().subgridspec(2, 1)
    figure = axes.figure
    axes.remove()
    return figure.add_subplot(halves[0]), figure.add_subplot(halves[1])


def save_figure(figure: Figure, path: Path | str) -> None:
    """Save as PNG, 110 dots an inch; raises ``ValueError`` when it cannot be written."""
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110))


def draw_curves(
    axes: Axes,
    curves: Mapping[str, tuple[Tensor, Tensor]],
    *,
    highlight: str,
    dashed: Sequence[str] = (),
    colours: Sequence = COLOURS,
) -> None:
    """Draw losses against inner steps: {name: (mean (K + 1,), standard error (K + 1,))}.

    A line with a band of two standard errors shows the losses before each of K updates. The last
    loss is on fresh examples, so it is a marker at step K. The curve named ``highlight`` is thick,
    those in ``dashed`` are dashed. ``colours`` are given to the curves in order.
    """
    for i, (name, (mean, error)) in enumerate(curves.items()):
        is_ours, colour, last = name == highlight, colours[i % len(colours)], len(mean) - 1
        steps, trained, spread = range(last), mean[:-1], 2 * error[:-1]
        style = {
            "linewidth": 2.6 if is_ours else 1.3,
            "color": colour,
            "zorder": 3 if is_ours else 2,
        }
        axes.plot(steps, trained, "--" if name in dashed else "-", label=name, **style)
        low, high = trained - spread, trained + spread
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        fresh = {"markersize": 8 if is_ours else 6, "elinewidth": 1.3, "clip_on": False}
        axes.errorbar(last, mean[-1], 2 * error[-1], fmt="D", color=colour, zorder=4, **fresh)
    axes.set(xlabel="inner step", ylabel="loss on held-out tasks")
    whole_steps(axes)
    plain_log_scale(axes)
    axes.legend(fontsize=TEXT_SIZE, labelspacing=0.2, loc="best")


def draw_bars(
    axes: Axes,
    values: Mapping[str, tuple[float, float]],
    *,
    highlight: str,
    colours: Sequence = COLOURS,
) -> None:
    """Draw {name: (mean, standard error)} as bars, with whiskers of two standard errors.

    ``colours`` are given to the bars in order; the bar named ``highlight`` is not faint. Raises
    ``ValueError`` when ``highlight`` is not one of the names."""
    names = list(values)
    means, errors = zip(*values.values())
    bar_colours = [colours[i % len(colours)] for i in range(len(names))]
    bars = axes.barh(names, means, xerr=[2 * e for e in errors], color=bar_colours, alpha=0.6)
    bars[names.index(highlight)].set_alpha(1.0)
    axes.invert_yaxis()
    axes.tick_params(labelsize=TEXT_SIZE)


def draw_signal(
    axes: Axes, signal: Tensor, name: str, *, logarithmic: bool, tasks: int = 4
) -> None:
    """Draw a rule's signal (T, K) along the run, for its first few tasks."""
    for values in signal[:tasks]:
        axes.plot(range(len(values)), values, linewidth=1.2)
    axes.set(xlabel="inner step", ylabel=name)
    whole_steps(axes)
    if logarithmic:
        plain_log_scale(axes)


def draw_trend(axes: Axes, steps: Sequence[int], values: Sequence[float], label: str) -> None:
    """Draw noisy ``values`` at ``steps``: a faint cloud, and a line through running means.

    A mean is over about an eighth of the values, fewer at either end."""
    half = len(values) // 16
    means = []
    for i in range(len(values)):
        near = values[max(0, i - half) : i + half + 1]
        means.append(sum(near) / len(near))
    (line,) = axes.plot(steps, means, linewidth=2.2, label=label)
    axes.plot(steps, values, ".", markersize=4, alpha=0.3, color=line.get_color())
    whole_steps(axes)


def legend_below(axes: Axes) -> None:
    """Add a legend under the curves of a logarithmic panel, with room made for it."""
    low, high = axes.get_ylim()
    axes.set_ylim(low * (low / high) ** 0.3, high)
    axes.legend(fontsize=TEXT_SIZE, labelspacing=0.2, loc="lower left")


def whole_steps(axes: Axes) -> None:
    """Put the ticks of the x axis at whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))


def plain_log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic, with ticks at 1, 2, 5, written as plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
