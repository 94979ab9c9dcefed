"""What the optimizers of this room share: the step around the update, and what they refuse.

Source: the conventions of ``torch.optim.Optimizer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

INFINITY = math.inf


class MemoryOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` that moves weights by what it remembers of their gradients.

    A subclass writes ``move`` and gives the ``ranges`` of its settings, {name: (low, high)}: a
    setting, of a group too, is at least low and below high, or ``ValueError`` is raised. Refused
    with ``ValueError`` are also complex weights and ``maximize``; sparse gradients raise
    ``RuntimeError``. Weights without a gradient, or without elements, stay as they are.
    """

    ranges: ClassVar[dict[str, tuple[float, float]]] = {}
    switches: ClassVar[tuple[str, ...]] = ()  # settings that are True or False
    shaped: ClassVar[tuple[str, ...]] = ()  # what in the state of a weight is shaped as it

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update ``params``, tensors (...) of ``group`` whose gradients are there, in place, under
        ``no_grad``. Raises ``NotImplementedError`` where a subclass lacks it."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move all weights once. ``closure``, if given, computes the loss () and its gradients
        anew, and that loss is returned. Raises ``RuntimeError`` for a sparse gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.move_all()
        return loss

    def move_all(self) -> None:
        """Call ``move`` for each group on its weights that have a gradient. Raises
        ``RuntimeError`` for a sparse gradient."""
        moving = [
            (group, [p for p in group["params"] if p.grad is not None and p.numel()])
            for group in self.param_groups
        ]
        if any(p.grad.is_sparse for _, params in moving for p in params):
            said = "takes no sparse gradients, but got one: use Embedding(sparse=False)"
            raise RuntimeError(f"{type(self).__name__} {said}")
        for group, params in moving:
            if params:
                self.move(group, params)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, {"params": ..., setting: value}, whose other settings are the
        optimizer's. Raises ``ValueError`` for a setting out of range, and as
        ``torch.optim.Optimizer`` does."""
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]  # an optimizer that refused a group goes on without it
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``. Raises ``ValueError``, before anything changes, for the
        state of another optimizer, of weights of other shapes, or with settings out of range."""
        check_saved(type(self).__name__, self.defaults, state_dict, "state", "param_groups")
        groups = state_dict["param_groups"]
        for group in groups:
            self.check_group({**group, "params": []})
        ours = [p for group in self.param_groups for p in group["params"]]
        theirs = [i for group in groups for i in group["params"]]
        for p, i in zip(ours, theirs):
            for name, kept in state_dict["state"].get(i, {}).items():
                if name in self.shaped and kept.shape != p.shape:
                    shapes = f"{tuple(kept.shape)}, but here one is {tuple(p.shape)}"
                    raise ValueError(f"this is the state of other weights: one was {shapes}")
        super().load_state_dict(state_dict)

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ``ValueError`` if the settings or the parameters of ``group`` are not allowed."""
        name = type(self).__name__
        for setting, (low, high) in self.ranges.items():
            value = group[setting]
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            is_number |= isinstance(value, Tensor) and value.numel() == 1
            if not is_number or not low <= value < high:
                top = "finite" if high == INFINITY else f"below {high:g}"
                allowed = f"{low:g} or more, and {top}"
                raise ValueError(f"{name}: {setting} is {allowed}, but got {value!r}")
        for setting in self.switches:
            if not isinstance(group[setting], bool):
                raise ValueError(f"{name}: {setting} is True or False, but got {group[setting]!r}")
        if group.get("maximize"):
            raise ValueError(f"{name} only minimises, but got maximize=True: negate the loss")
        if any(p.is_complex() for p in group["params"]):
            raise ValueError(
                f"{name} takes real parameters, but got a complex one: split it in two"
            )


def check_saved(
    name: str, settings: Mapping[str, Any], state_dict: dict[str, Any], *parts: str
) -> None:
    """Raise ``ValueError`` unless ``state_dict`` has these ``parts``, and its groups the
    ``settings`` of the optimizer called ``name``."""
    missing = [part for part in parts if part not in state_dict]
    if not missing:
        has = (group.keys() for group in state_dict["param_groups"])
        missing = sorted(settings.keys() - set.intersection(*map(set, has)))
    if missing:
        said = f"this is the state of another optimizer than {name}: it has no"
        raise ValueError(f"{said} {', '.join(missing)}")


def as_rows(tensor: Tensor) -> Tensor:
    """View a tensor (R, ...) as a matrix (R, C); scalars and vectors (C,) are one row, (1, C). A
    convolution's weight becomes (out, rest). Copies what cannot be viewed so."""
    return tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(1, -1)


def zeros_for(param: Tensor) -> Tensor:
    """Zeros like ``param`` (...), contiguous, so that ``as_rows`` of them is a view."""
    return torch.zeros_like(param, memory_format=torch.contiguous_format)
