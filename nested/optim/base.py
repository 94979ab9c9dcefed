"""What the optimizers of this room share: the step around the update, and what they refuse.

Source: the conventions of ``torch.optim.Optimizer``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from nested.optim.sharded import is_cut_inside, whole

INFINITY = math.inf
NOT_SETTINGS = {  # what else a group may hold: the tensors, names, and what schedulers put there
    *("params", "param_names", "name", "maximize"),
    *("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"),
}


class MemoryOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` that moves weights by what it remembers of their gradients.

    A subclass writes ``move``, and ``begin`` if it has a state. It gives the ``ranges`` of its
    settings, {name: (low, high)}: a setting, of a group too, is at least low and below high, or
    ``ValueError`` is raised. ``ValueError`` also refuses complex weights, ``maximize``, and keys of
    a group that are no settings. Sparse gradients raise ``RuntimeError``. Weights without a
    gradient, or without elements, stay as they are.
    """

    ranges: ClassVar[dict[str, tuple[float, float]]] = {}
    switches: ClassVar[tuple[str, ...]] = ()  # settings that are True or False
    shaped: ClassVar[tuple[str, ...]] = ()  # what in the state of a weight is shaped as it
    kept: ClassVar[tuple[str, ...]] = ()  # what the optimizer itself keeps in a group

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Give ``params``, tensors (...) of ``group``, the state that they start from, unless they
        have one. Called before each ``move``; by default there is no state."""

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
        """Call ``begin`` and ``move`` for each group on its weights that have a gradient. A step
        that only looks at the state, see ``is_look``, calls ``begin`` alone. Raises
        ``RuntimeError`` for a sparse gradient."""
        moving = [
            (group, [p for p in group["params"] if p.grad is not None and p.numel()])
            for group in self.param_groups
        ]
        if any(p.grad.is_sparse for _, params in moving for p in params):
            said = "takes no sparse gradients, but got one: use Embedding(sparse=False)"
            raise RuntimeError(f"{type(self).__name__} {said}")
        only_looks = is_look(self.state, self.param_groups)
        for group, params in moving:
            if params:
                self.begin(group, params)
                if not only_looks:
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

    def state_dict(self) -> dict[str, Any]:
        """The state of all weights, as ``torch.optim`` has it: also of those without one."""
        if self.state:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]  # a dict that is empty, which loading by name asks for
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a copy of ``state_dict``. Raises ``ValueError``, before anything changes, for
        the state of another optimizer, of weights of other shapes, or with settings that are not
        allowed."""
        check_saved(type(self).__name__, self.defaults, state_dict, "state", "param_groups")
        groups = state_dict["param_groups"]
        for group in groups:
            self.check_group({**group, "params": []})
        state = state_of(state_dict)
        ours = [p for group in self.param_groups for p in group["params"]]
        theirs = [i for group in groups for i in group["params"]]
        for p, i in zip(ours, theirs):
            for name, kept in state.get(i, {}).items():
                if name in self.shaped and kept.shape != p.shape:
                    shapes = f"{tuple(kept.shape)}, but here one is {tuple(p.shape)}"
                    raise ValueError(f"this is the state of other weights: one was {shapes}")
        super().load_state_dict({**state_dict, "state": state})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds this setting, which we do not have

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ``ValueError`` if the settings or the parameters of ``group`` are not allowed, or
        if it has a key that is no setting."""
        name = type(self).__name__
        check_keys(name, group, {*self.defaults, *self.kept})
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
        if any(p.dim() > 2 and is_cut_inside(p) for p in group["params"]):
            raise ValueError(
                f"{name} takes weights that are sharded along their first dimension, as"
                " fully_shard does by default, but one is sharded along another"
            )
        if any(p.is_complex() for p in group["params"]):
            raise ValueError(
                f"{name} takes real parameters, but got a complex one: split it in two"
            )


def is_look(state: Mapping[Any, Any], groups: list[dict[str, Any]]) -> bool:
    """Tell whether a step is only made to look at the state of a new optimizer.

    ``torch.distributed.checkpoint`` makes such a step: the ``state`` is still empty, and in all
    ``groups`` the rates and the gradients are zero. No clock may advance in it.
    """
    if state or any(float(group.get("lr", 0)) for group in groups):
        return False
    grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    if not grads or any(grad.is_sparse for grad in grads):
        return False
    return not any(whole(grad.abs().sum()).item() for grad in grads if not grad.is_meta)


def check_keys(name: str, group: Mapping[str, Any], settings: Iterable[str]) -> None:
    """Raise ``ValueError`` if ``group``, of the optimizer called ``name``, has a key that is not in
    ``settings``, no key of a scheduler, and does not begin with an underscore."""
    known = sorted({*settings} - NOT_SETTINGS)
    for key in group:
        if key not in NOT_SETTINGS and key not in known and not str(key).startswith("_"):
            close = difflib.get_close_matches(str(key), known, 1)
            meant = f"did you mean {close[0]!r}?" if close else f"settings are {', '.join(known)}."
            raise ValueError(
                f"{name}: {key!r} is no setting of a group: {meant} A key of your own begins"
                " with an underscore"
            )


def state_of(state_dict: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
    """Copy the state of each weight from ``state_dict``, with all tensors (...) in it.

    An empty dict in place of a value is left out: ``torch.distributed.checkpoint`` gives it for
    what a flat state does not have.
    """
    state = tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), dict(state_dict["state"]))
    return {i: {n: v for n, v in values.items() if v != {}} for i, values in state.items()}


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
