"""A learned rule as a ``torch.optim.Optimizer``: for any training loop, without any graph.

State: that of the rule, for each weight.  It sees: gradients.  Clock: every batch.
Source: the conventions of ``torch.optim``; ours.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import (
    TreeSpec,
    tree_flatten,
    tree_flatten_with_path,
    tree_unflatten,
)

from nested.levels.rule import UpdateRule
from nested.optim.base import INFINITY, MemoryOptimizer, check_saved
from nested.rules.guard import (
    Record,
    go_back,
    has_climbed,
    is_worth_keeping,
    keep,
    new_record,
    note_promise,
    rise_since_kept,
)
from nested.rules.pretrained import fingerprint, load_rule, outside_of, read_card

CLIMBED = (
    "the loss climbed after a step of this rule, so the weights went back and further steps are"
    " smaller: try a group's lr of 0.1, or compare with AdamW"
)
USER = 5  # frames between a warning and the call of step
MOST_FORMS = 64  # of states, kept for the sets of weights that had gradients
Form = tuple[list[tuple[str, str | None]], TreeSpec]  # of a state: a key for each leaf, and whose


class LearnedOptimizer(MemoryOptimizer):
    """Moves weights by an ``UpdateRule``, such as one that ``meta_train`` taught.

    ``lr`` of a group multiplies the rule's steps: 1 leaves them as they are, and schedulers may
    drive it (cyclic ones with ``cycle_momentum=False``: there is no momentum to drive). Each group
    of parameters is a run of its own to the rule, with one count of steps: what is unfrozen late
    should come late, by ``add_param_group``. Weights without a gradient stay, and so does what the
    rule remembers of them. The rule is copied to where the weights are. One that sees its progress
    needs ``total_steps``, the number of optimizer steps that there will be; one that sees the loss
    needs ``step(closure)`` or ``step(loss=loss)``.

    A step that makes the loss climb is taken back: the next call of ``step`` sets the weights to
    those before it and leaves its own gradient out. From then on ``trust`` also multiplies the
    steps; it is 1 at first, and a quarter after each climb. Gradients tell a climb; where they are
    clipped to a length they do not, so pass the loss there. See ``nested.rules.guard``.

    Raises ``TypeError`` for a rule that is none; ``ValueError`` for settings out of range, for a
    rule that is not told its total steps, or where it needs the loss and gets none;
    ``RuntimeError`` for a step without any gradient, or for a weight whose shape has changed.
    """

    ranges = {"lr": (0.0, INFINITY)}
    kept = ("shared",)

    def __init__(self, params: Any, rule: UpdateRule, *, total_steps: int | None = None) -> None:
        if not isinstance(rule, UpdateRule):
            got = type(rule).__name__
            raise TypeError(f"rule is an UpdateRule, such as load_rule() gives, but got {got}")
        self.rule = copy.deepcopy(rule if total_steps is None else rule.for_horizon(total_steps))
        if getattr(self.rule, "total_steps", 1) is None and getattr(self.rule, "progress", True):
            raise ValueError(
                "this rule sees its progress: give total_steps, the number of optimizer steps that"
                " there will be"
            )
        self.forms: dict[tuple[str, ...], Form] = {}
        self.loss: Tensor | None = None  # of the step that is made
        told = getattr(self.rule, "total_steps", None)
        settings = {"lr": 1.0, "rule": type(rule).__name__, "total_steps": told}
        super().__init__(params, {**settings, "fingerprint": fingerprint(rule)})
        self.rule.to(self.param_groups[0]["params"][0].device)

    @property
    def trust(self) -> float:
        """What the guard multiplies the rule's steps by: 1 until the loss has climbed."""
        return self._record()["trust"]

    @classmethod
    def from_pretrained(
        cls, name: Path | str = "default", params: Any = None, total_steps: int | None = None
    ) -> LearnedOptimizer:
        """Make the optimizer of the rule called ``name``: one of ``pretrained_names()``, or a file
        that ``save_rule`` wrote. ``from_pretrained(params, total_steps)`` takes the default one.

        Warns once when the net or the run is outside of what the rule was taught on, as its card
        tells. Raises ``TypeError`` without ``params``, ``ValueError`` for a rule that is not there
        or cannot be read, and what the constructor raises.
        """
        name, params, total_steps = _in_order(name, params, total_steps)
        optimizer = cls(params, load_rule(name), total_steps=total_steps)
        shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
        outside = outside_of(read_card(name), shapes, total_steps)
        if outside:
            warnings.warn(
                f"the rule {str(name)!r} was not taught on such a net or run: {outside}; compare"
                " it with AdamW, and try a group's lr of 0.1",
                stacklevel=2,
            )
        return optimizer

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Tensor] | Tensor | float | None = None,
        *,
        loss: Tensor | float | None = None,
    ) -> Tensor | None:
        """Move all weights once. ``closure``, if given, computes the loss () and its gradients
        anew, and that loss is returned. ``loss`` is one computed before; it may also come first.
        Raises ``ValueError`` and ``RuntimeError`` as the class says, ``TypeError`` for a closure
        that cannot be called."""
        if isinstance(closure, (Tensor, float, int)) and loss is None:
            closure, loss = None, closure
        if closure is not None and not callable(closure):
            got = type(closure).__name__
            raise TypeError(f"step takes a closure or a loss, but got {got}: call step(loss=loss)")
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.rule.needs_loss and loss is None:
            raise ValueError("this rule sees the loss: call step(closure), or step(loss=loss)")
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(f"the loss is one number, but got shape {tuple(loss.shape)}")
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            raise RuntimeError("no weight has a gradient: call loss.backward() before step()")
        self.loss = None if loss is None else _as_scalar(loss)
        self._move_guarded()
        return loss if closure is not None else None

    def _record(self) -> Record:
        return self.param_groups[0].setdefault("guard", new_record())

    def _move_guarded(self) -> None:
        """Move all weights; or go back to the kept ones, where what came after them climbed."""
        record = self._record()
        weights = [p for group in self.param_groups for p in group["params"]]
        for group in self.param_groups:
            self._check_shapes(group)
        loss = None if self.loss is None or self.loss.is_meta else self.loss.item()
        rise = rise_since_kept(self.state, weights)
        if has_climbed(record, rise, loss):
            if not record["climbs"]:
                warnings.warn(CLIMBED, stacklevel=USER)
            go_back(record, self.state, weights)
            return
        is_kept = is_worth_keeping(record, rise, loss)
        if is_kept:
            keep(record, self.state, weights, loss)
        record["steps"] += 1
        sees_progress = getattr(self.rule, "progress", True)
        if sees_progress and record["steps"] - 1 == self.defaults["total_steps"]:
            warnings.warn(
                f"this rule was told total_steps={self.defaults['total_steps']}, and now come more:"
                " it goes on with the small steps of the end; give the number that there will be",
                stacklevel=USER,
            )
        self.move_all()
        if is_kept:
            note_promise(record, self.state, weights)

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        names = {p: f"weight {i}" for i, p in enumerate(group["params"])}
        present = {names[p]: p for p in params}
        keys, spec = self._form(group, present)
        shared = group["shared"]
        leaves = [shared[key] if n is None else self.state[present[n]][key] for key, n in keys]
        state = tree_unflatten(leaves, spec)
        grads = {name: p.grad for name, p in present.items()}
        loss = params[0].new_zeros(()) if self.loss is None else self.loss.to(params[0].device)
        step = self.rule({n: p.detach() for n, p in present.items()}, grads, state, loss)
        scale = float(group["lr"]) * self.trust
        for (key, name), leaf in zip(keys, tree_flatten(step.state)[0], strict=True):
            place = shared if name is None else self.state[present[name]]
            place[key] = leaf
        for name, p in present.items():
            if scale == 1:
                p.copy_(step.params[name])
            else:
                p.lerp_(step.params[name], scale)

    def _check_shapes(self, group: dict[str, Any]) -> None:
        for i, p in enumerate(group["params"]):
            shape = self.state.get(p, {}).get("shape", list(p.shape))
            if shape != list(p.shape):
                was, now = tuple(shape), tuple(p.shape)
                raise RuntimeError(
                    f"weight {i} had shape {was} and has {now}: make a new optimizer for it"
                )

    def _form(self, group: dict[str, Any], present: dict[str, Tensor]) -> Form:
        """The leaves that the rule's state has for these weights; new ones start here."""
        new = [p for p in present.values() if "shape" not in self.state[p]]
        names = tuple(present)
        if new or names not in self.forms or "shared" not in group:
            start = self.rule.init({name: p.detach() for name, p in present.items()})
            found, spec = tree_flatten_with_path(start)
            keys = [_key(path, present) for path, _ in found]
            if len(self.forms) >= MOST_FORMS:
                self.forms.clear()
            self.forms[names] = keys, spec
            shared = group.setdefault("shared", {})
            for (key, name), (_, leaf) in zip(keys, found, strict=True):
                if name is None:
                    shared.setdefault(key, leaf)
                else:
                    self.state[present[name]].setdefault(key, leaf)
            for p in new:
                self.state[p]["shape"] = list(p.shape)
        return self.forms[names]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``. Raises ``ValueError``, before anything changes, for the
        state of another optimizer or rule, of weights of other shapes, of a run of another length,
        or with settings out of range. A state of an older version, without a fingerprint of its
        rule, is taken with a warning."""
        settings = {name: x for name, x in self.defaults.items() if name != "fingerprint"}
        check_saved(type(self).__name__, settings, state_dict, "state", "param_groups")
        state_dict = self._with_fingerprints(state_dict)
        groups = state_dict["param_groups"]
        for group in groups:
            for setting in ("rule", "total_steps"):
                theirs, ours = group[setting], self.defaults[setting]
                if theirs != ours:
                    said = f"this state is of an optimizer with {setting} {theirs}"
                    raise ValueError(f"{said}, but here it is {ours}: make one with the same")
            theirs, ours = group["fingerprint"], self.defaults["fingerprint"]
            if theirs != ours:
                raise ValueError(
                    f"this state is of a {group['rule']} rule with other settings or weights"
                    f" (fingerprint {theirs}, here {ours}): load the rule that made it"
                )
        weights = [p for group in self.param_groups for p in group["params"]]
        for p, i in zip(weights, (i for group in groups for i in group["params"])):
            shape = state_dict["state"].get(i, {}).get("shape", list(p.shape))
            if shape != list(p.shape):
                shapes = f"{tuple(shape)}, but here one is {tuple(p.shape)}"
                raise ValueError(f"this is the state of other weights: one was {shapes}")
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            device = group["params"][0].device
            shared = group.get("shared", {})
            group.update({"shared": {key: leaf.to(device) for key, leaf in shared.items()}})

    def _with_fingerprints(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The same state; where an older version saved it, with the fingerprint of this rule."""
        groups = state_dict["param_groups"]
        if not all("fingerprint" in group for group in groups):
            warnings.warn(
                "this state was saved by an older version of nested, so that it cannot tell whether"
                " it is of the same rule: make sure that it is",
                stacklevel=3,
            )
            ours = {"fingerprint": self.defaults["fingerprint"]}
            groups = [{**ours, **group} for group in groups]
        return {**state_dict, "param_groups": groups}

    def __getstate__(self) -> dict[str, Any]:
        own = {"rule": self.rule, "forms": {}, "loss": None}
        return {**super().__getstate__(), **own}


def _in_order(name: Any, params: Any, total_steps: int | None) -> tuple[Path | str, Any, Any]:
    """The arguments of ``from_pretrained``, where the parameters may come first."""
    if not isinstance(name, (str, Path)):
        if isinstance(params, (str, Path)):
            name, params = params, name
        elif total_steps is None or params is None:
            total_steps = params if total_steps is None else total_steps
            name, params = "default", name
        else:
            got = type(name).__name__
            raise TypeError(f"name is that of a rule, or a file, but got {got}")
    if params is None:
        raise TypeError("from_pretrained needs params: those of the net to train")
    return name, params, total_steps


def _as_scalar(loss: Tensor | float) -> Tensor:
    dtype = loss.dtype if isinstance(loss, Tensor) else torch.float32
    return torch.as_tensor(loss, dtype=dtype).detach().reshape(())


def _key(path: tuple[Any, ...], names: dict[str, Tensor]) -> tuple[str, str | None]:
    """What a leaf is called, and the weight that it belongs to, if it is one's alone."""
    parts = [str(getattr(part, "key", getattr(part, "idx", part))) for part in path]
    owners = [part for part in parts if part in names]  # no index is called "weight 0"
    name = owners[-1] if owners else None
    return "/".join(part for part in parts if part != name), name
