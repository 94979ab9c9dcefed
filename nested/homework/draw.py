"""Draw a student's unroll: its steps, its levels, and where the graph is cut.

Letters: K inner steps. Lengths are in units of a step and of a level.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from nested.conformance.check import broken
from nested.homework.grade import find_file
from nested.homework.registry import Worth
from nested.homework.sandbox import Sandbox
from nested.homework.slots import SLOTS
from nested.homework.trace import Edges, Trace, trace
from nested.support.plots import new_figure, save_figure

LEVELS = {
    "level 4\nmomentum $\\mu$, lr $\\eta$": 3.0,
    "level 3\nweights": 2.0,
    "level 2\nbuffer": 1.0,
    "level 1\nloss, gradient": 0.0,
}
CARRIED, CUT, UNKNOWN = "#0072B2", "#D55E00", "#999999"
LOST = Edges(
    weights="the old weights do not reach the new ones",
    gradient="the weights do not reach the buffer through the gradient",
    buffer="the old buffer does not reach the new one",
    move="the buffer does not reach the weights",
    lr="the learning rate does not reach the weights",
    momentum="the momentum does not reach the buffer",
)


def draw_submission(folder: Path, slot: str, worth: Worth, path: Path) -> str:
    """Draw the unroll in a student's file of ``slot`` to the PNG ``path``.

    Returns one sentence about the picture. Raises ``ValueError`` for a slot without an unroll, a
    missing file, code that raises, and a picture that cannot be written."""
    if SLOTS[slot].unroll is None:
        drawable = ", ".join(name for name, slot in SLOTS.items() if slot.unroll is not None)
        raise ValueError(f"{slot} has no unroll to draw; choose from {drawable}")
    file = find_file(folder, SLOTS[slot].file)
    if file is None:
        raise ValueError(f"{SLOTS[slot].file} is not in {str(folder)!r}")
    try:
        with Sandbox(file, slot, worth.seconds) as sandbox:
            record = trace(SLOTS[slot].unroll(sandbox))
    except Exception as error:  # from the student's code
        verdict = broken(error)
        raise ValueError(f"cannot draw {slot}: {verdict.measured}: {verdict.hint}") from error
    figure, axes = new_figure(1, 1, width=9.0, height=5.2)
    draw_trace(axes[0, 0], record)
    message = describe(record)
    axes[0, 0].set_title(f"{slot}: {message}", fontsize=11, loc="left", wrap=True)
    save_figure(figure, path)
    return message


def describe(record: Trace) -> str:
    """Tell in one sentence where the graph is cut."""
    kinds = [
        kind for kind in Edges._fields if not all(getattr(edges, kind) for edges in record.edges)
    ]
    faults = [getattr(LOST, kind) for kind in kinds]
    if record.trouble:
        faults.append(record.trouble)
    if not faults:
        return "the graph is whole: slopes reach lr, momentum and the first weights"
    return "; ".join(faults)


def draw_trace(axes: Axes, record: Trace) -> None:
    """Draw a node for each value, and an arrow from each value to those computed from it.

    An arrow is solid where it is in the graph, and dashed with a cross where the graph is cut. It
    is dotted where that is not known."""
    steps = len(record.losses)
    for k in range(steps):
        edges = record.edges[k] if k < len(record.edges) else None
        weight, loss, buffer = (k, 2.0), (k, 0.0), (k + 0.6, 1.0)
        _arrow(axes, weight, loss, True if edges else None)
        _arrow(axes, loss, buffer, edges and edges.gradient)
        _arrow(axes, weight, (k + 1, 2.0), edges and edges.weights)
        _arrow(axes, buffer, (k + 1, 2.0), edges and edges.move)
        _arrow(axes, (k + 0.85, 3.0), (k + 1, 2.0), edges and edges.lr)
        if k:  # the first buffer is 0, so momentum changes nothing
            _arrow(axes, (k - 0.4, 1.0), buffer, edges and edges.buffer)
            _arrow(axes, (k + 0.5, 3.0), buffer, edges and edges.momentum)
            _node(axes, (k + 0.5, 3.0), r"$\mu$")
        _node(axes, (k + 0.85, 3.0), r"$\eta$")
        _node(axes, buffer, f"$v_{k + 1}$")
        _node(axes, loss, f"$L_{k}$\n{record.losses[k]:.2f}")
    for k, weight in enumerate(record.weights):
        _node(axes, (k, 2.0), f"$w_{k}$\n{weight:.2f}")
    for name, height in LEVELS.items():
        axes.text(-0.45, height, name, ha="right", va="center", fontsize=9)
    styles = [("-", CARRIED, "in the graph"), ("--", CUT, "cut"), (":", UNKNOWN, "not known")]
    for style, colour, name in styles if record.trouble else styles[:2]:
        axes.plot([], [], style, color=colour, label=name)
    axes.legend(loc="lower right", fontsize=9)
    about = f"{steps} steps of this file on one weight"
    axes.text(-1.4, -0.6, about, fontsize=8, color="#444444")
    axes.set(xlim=(-1.4, steps + 0.4), ylim=(-0.7, 3.4))
    axes.axis("off")


def _node(axes: Axes, at: tuple[float, float], text: str) -> None:
    box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "#444444"}
    axes.text(*at, text, ha="center", va="center", fontsize=9, bbox=box, zorder=3)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], is_carried: bool | None
) -> None:
    style, colour = {True: ("-", CARRIED), False: ("--", CUT), None: (":", UNKNOWN)}[is_carried]
    options = {
        "arrowstyle": "-|>",
        "linestyle": style,
        "color": colour,
        "shrinkA": 16,
        "shrinkB": 16,
    }
    axes.annotate("", end, start, arrowprops=options, zorder=1)
    if is_carried is False:
        middle = [(a + b) / 2 for a, b in zip(start, end)]
        axes.plot(*middle, "x", color=CUT, markersize=10, markeredgewidth=3, zorder=2)
