"""Texts that end before a level moves: nothing they hold can teach that level what to write.

Source: the writes of a level reach later tokens only after its clock, as in Behrouz et al. 2025
(arXiv 2512.24695), eq. 71.
"""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

_SLOWEST: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # 0: nothing is left to say
_LEARNED: WeakSet[nn.Module] = WeakSet()  # from one short text already


def untaught(module: nn.Module, length: int) -> dict[str, int]:
    """The levels in ``module``, with their periods, that texts of ``length`` tokens teach nothing.

    No token of such a text comes after a move of the level, so no loss depends on what it wrote.
    """
    found = {}
    for name, part in module.named_modules():
        for level, period in getattr(part, "clocks", dict)().items():
            if period >= length:
                found[f"{name} {level}".strip()] = period
    return found


def warn_of_short_texts(module: nn.Module, y: Tensor, length: int, is_new: bool) -> None:
    """Let the second backward from short texts warn of levels in ``module`` with longer periods.

    ``y`` (...) was read from ``length`` tokens; ``is_new`` says that no state was carried on to
    them. A module warns once, and never after it was given a state: then texts are windows.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return
    if not is_new:
        if module in _SLOWEST:
            _SLOWEST[module] = 0
        return
    if module not in _SLOWEST:
        _SLOWEST[module] = max(untaught(module, 0).values(), default=0)
    if length <= _SLOWEST[module] and y.grad_fn is not None:
        y.grad_fn.register_prehook(lambda grads: _warn(module, length))


def _warn(module: nn.Module, length: int) -> None:
    if _SLOWEST[module] and module in _LEARNED:
        _SLOWEST[module] = 0
        warnings.warn(told(untaught(module, length), length), stacklevel=2)
    _LEARNED.add(module)


def told(levels: dict[str, int], length: int) -> str:
    """The sentence on ``levels`` that texts of ``length`` tokens teach nothing."""
    listed = ", ".join(f"{name} (every {period:,} tokens)" for name, period in levels.items())
    return (
        f"texts of {length:,} tokens end before these levels move, and teach them nothing:"
        f" {listed}. Train on texts of more than {max(levels.values()):,} tokens, choose shorter"
        " periods, or carry the state on from text to text"
    )
