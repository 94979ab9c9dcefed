"""A warning for texts that end before a level moves: they cannot teach that level what to write.

A level's writes reach later tokens only after its clock is due.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 71.
"""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, nn

from nested.memory.masks import is_traced

_SLOWEST: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # period; 0 never warns again
_LEARNED: WeakSet[nn.Module] = WeakSet()  # modules with one backward from a short text


def never_taught(clocks: dict[str, int], length: int) -> dict[str, int]:
    """Select from ``clocks``, {level: period}, the levels that learn nothing from short texts.

    The texts have ``length`` tokens. Such a level first moves at or after the last one, so no loss
    depends on what it wrote.
    """
    return {name: period for name, period in clocks.items() if period >= max(length, 2)}


def clocks_in(module: nn.Module, path: str = "") -> dict[str, int]:
    """Collect the clocks of all memories in ``module``, as {"path level": period}."""
    if hasattr(module, "clocks"):
        return {f"{path} {level}".strip(): period for level, period in module.clocks().items()}
    clocks = {}
    for name, child in module.named_children():
        clocks |= clocks_in(child, f"{path}.{name}".strip("."))
    return clocks


def warn_of_short_texts(module: nn.Module, y: Tensor, length: int, is_new: bool) -> None:
    """Warn at the second backward through short texts if ``module`` has levels with longer periods.

    ``y`` (...) was read from ``length`` tokens. ``is_new`` says that they began a text. A module
    warns once. It never warns after it got a state: its texts are windows of longer ones then.
    """
    if is_traced():
        return
    if not is_new:
        if module in _SLOWEST:
            _SLOWEST[module] = 0
        return
    if module not in _SLOWEST:
        _SLOWEST[module] = max(never_taught(clocks_in(module), 0).values(), default=0)
    if length <= _SLOWEST[module] and y.grad_fn is not None:
        y.grad_fn.register_prehook(lambda grads: _warn(module, length))


def _warn(module: nn.Module, length: int) -> None:
    if _SLOWEST[module] and module in _LEARNED:
        _SLOWEST[module] = 0
        warnings.warn(advice(never_taught(clocks_in(module), length), length), stacklevel=2)
    _LEARNED.add(module)


def advice(levels: dict[str, int], length: int) -> str:
    """Say which ``levels``, {name: period}, learn nothing from texts of ``length`` tokens.

    The text also names the remedies.
    """
    names = ", ".join(f"{name} (every {period:,} tokens)" for name, period in levels.items())
    return (
        f"texts of {length:,} tokens end before these levels move, and teach them nothing:"
        f" {names}. Train on texts of more than {max(levels.values()):,} tokens, choose shorter"
        " periods, or carry the state on from text to text"
    )
