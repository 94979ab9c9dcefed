"""What the optimizers here share: the step around an update, checks, and saving the state.

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
NOT_SETTINGS = {  # other keys of a group: tensors, names, and what schedulers store there
    *("params", "param_names", "name", "maximize"),
    *("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"),
}


class MemoryOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` that updates weights by a memory of their gradients.

    To add an optimizer, write a subclass with ``move``, and with ``begin`` if it has a state. Name
    the ``ranges`` of its settings, {name: (low, high)}.

    Raises ``ValueError`` for a setting below low or not below high, and for keys of a group that
    are no settings. The same goes for complex weights and ``maximize``. Raises ``RuntimeError`` for
    sparse gradients. Weights without a gradient, or without elements, stay unchanged.
    """

    ranges: ClassVar[dict[str, tuple[float, float]]] = {}
    switches: ClassVar[tuple[str, ...]] = ()  # settings that are True or False
    shaped: ClassVar[tuple[str, ...]] = ()  # parts of a weight's state that have its shape
    extra_keys: ClassVar[tuple[str, ...]] = ()  # other keys that the optimizer puts in a group

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Give ``params``, tensors (...) of ``group``, an initial state, unless they have one.
        ``move_all`` calls it before each ``move``. By default there is no state."""

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update ``params``, tensors (...) of ``group`` that have gradients, in place and under
        ``no_grad``. Raises ``NotImplementedError`` if a subclass lacks it."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all weights once. ``closure``, if given, computes the loss () and its gradients;
        that loss is returned. Raises ``RuntimeError`` for a sparse gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.move_all()
        return loss

    def move_all(self) -> None:
        """Call ``begin`` and ``move`` for each group on its weights that have a gradient.

        A step that only creates the state, see ``only_creates_state``, calls ``begin`` alone.
        Raises ``RuntimeError`` for a sparse gradient.
        """
        moving = [
            (group, [p for p in group["params"] if p.grad is not None and p.numel()])
            for group in self.param_groups
        ]
        if any(p.grad.is_sparse for _, params in moving for p in params):
            raise RuntimeError(
                f"{type(self).__name__} takes no sparse gradients, but got one: use"
                " Embedding(sparse=False)"
            )
        creates_state = only_creates_state(self.state, self.param_groups)
        for group, params in moving:
            if params:
                self.begin(group, params)
                if not creates_state:
                    self.move(group, params)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, {"params": ..., setting: value}. Missing settings are those of
        the optimizer. Raises ``ValueError`` for a setting out of range, and as
        ``torch.optim.Optimizer`` does."""
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]  # the optimizer stays usable without the refused group
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the format of ``torch.optim``, with an entry for every weight."""
        if self.state:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]  # creates an empty dict, which loading by name asks for
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a copy of ``state_dict``. Raises ``ValueError``, before anything changes,
        for the state of another optimizer, for weights of other shapes, and for settings that are
        not allowed."""
        check_saved(type(self).__name__, self.defaults, state_dict, "state", "param_groups")
        groups = state_dict["param_groups"]
        for group in groups:
            self.check_group({**group, "params": []})
        state = state_of(state_dict)
        ours = [p for group in self.param_groups for p in group["params"]]
        theirs = [i for group in groups for i in group["params"]]
        for p, i in zip(ours, theirs):
            for name, value in state.get(i, {}).items():
                if name in self.shaped and value.shape != p.shape:
                    shapes = f"{tuple(value.shape)}, but here one is {tuple(p.shape)}"
                    raise ValueError(f"this is the state of other weights: one was {shapes}")
        super().load_state_dict({**state_dict, "state": state})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds this setting, which is none here

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ``ValueError`` if ``group`` has a setting or a parameter that is not allowed, or a
        key that is no setting."""
        name = type(self).__name__
        check_keys(name, group, {*self.defaults, *self.extra_keys})
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


def only_creates_state(state: Mapping[Any, Any], groups: list[dict[str, Any]]) -> bool:
    """Return whether a step is made only to create the state of a new optimizer.

    ``torch.distributed.checkpoint`` makes such a step to learn the names in a state. The ``state``
    is still empty, and all rates and gradients in ``groups`` are zero. No clock may advance in it.
    """
    if state or any(float(group.get("lr", 0)) for group in groups):
        return False
    grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    if not grads or any(grad.is_sparse for grad in grads):
        return False
    return not any(whole(grad.abs().sum()).item() for grad in grads if not grad.is_meta)


def check_keys(name: str, group: Mapping[str, Any], settings: Iterable[str]) -> None:
    """Raise ``ValueError`` if ``group`` has a key that the optimizer called ``name`` does not know.

    It knows its ``settings``, the keys of schedulers, and keys that begin with an underscore.
    """
    known = sorted({*settings} - NOT_SETTINGS)
    for key in group:
        if key not in NOT_SETTINGS and key not in known and not str(key).startswith("_"):
            close = difflib.get_close_matches(str(key), known, 1)
            meant = f"did you mean {close[0]!r}?" if close else f"settings are {', '.join(known)}."
            raise ValueError(
                f"{name}: {key!r} is no setting of a group: {meant} Begin keys that you add with an"
                " underscore"
            )


def state_of(state_dict: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
    """Copy the state of each weight from ``state_dict``, with all tensors (...) in it.

    Values that are empty dicts are left out: ``torch.distributed.checkpoint`` gives them for
    entries that a flat state lacks.
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
        missing = ", ".join(missing)
        raise ValueError(f"this is the state of another optimizer than {name}: it has no {missing}")


def as_rows(tensor: Tensor) -> Tensor:
    """View a tensor (R, ...) as a matrix (R, C), and a scalar or vector (C,) as one row, (1, C).

    A convolution's weight becomes (out, rest). A tensor that has no such view is copied.
    """
    return tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(1, -1)


def zeros_for(param: Tensor) -> Tensor:
    """Make contiguous zeros shaped as ``param`` (...), so that ``as_rows`` of them is a view."""
    return torch.zeros_like(param, memory_format=torch.contiguous_format)
