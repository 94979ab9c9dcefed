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
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from nested.support.files import write_whole

COLOURS = matplotlib.color_sequences["tab10"]


def new_figure(rows: int, columns: int, width: float = 4.6, height: float = 3.6) -> tuple:
    """Return (figure, axes): a grid of panels, each ``width`` x ``height`` inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Save as PNG, 110 dots an inch; raises ``ValueError`` when it cannot be written."""
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110))


def draw_curves(
    axes: Axes,
    curves: Mapping[str, tuple[Tensor, Tensor]],
    *,
    highlight: str,
    dashed: Sequence[str] = (),
) -> None:
    """Draw {name: (mean (K + 1,), standard error (K + 1,))} of losses against inner steps, with
    bands of two standard errors; the one named ``highlight`` is thick, those in ``dashed``
    dashed."""
    for i, (name, (mean, error)) in enumerate(curves.items()):
        steps = range(len(mean))
        style = {"linewidth": 2.6 if name == highlight else 1.3, "color": COLOURS[i % 10]}
        axes.plot(steps, mean, "--" if name in dashed else "-", label=name, **style)
        low, high = mean - 2 * error, mean + 2 * error
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="inner step", ylabel="loss on held-out tasks")
    plain_log_scale(axes)
    axes.legend(fontsize=6, labelspacing=0.2, loc="best")


def draw_bars(axes: Axes, values: Mapping[str, tuple[float, float]], *, highlight: str) -> None:
    """Draw {name: (mean, standard error)} as bars, with whiskers of two standard errors,
    in the colours of ``draw_curves``. Raises
    ``ValueError`` when ``highlight`` is not one of them."""
    names = list(values)
    means, errors = zip(*values.values())
    colours = [COLOURS[i % 10] for i in range(len(names))]
    bars = axes.barh(names, means, xerr=[2 * e for e in errors], color=colours, alpha=0.6)
    bars[names.index(highlight)].set_alpha(1.0)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)


def draw_signal(
    axes: Axes, signal: Tensor, name: str, *, logarithmic: bool, tasks: int = 4
) -> None:
    """Draw a rule's signal (T, K) along the run, for its first few tasks."""
    for values in signal[:tasks]:
        axes.plot(range(len(values)), values, linewidth=1.2)
    axes.set(xlabel="inner step", ylabel=name)
    if logarithmic:
        plain_log_scale(axes)


def plain_log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic, with ticks at 1, 2, 5, written as plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
