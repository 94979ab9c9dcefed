"""A learned rule as a ``torch.optim.Optimizer``: for any training loop, without any graph.

State: that of the rule, for each weight.  It sees: gradients.  Clock: every batch.
Source: the conventions of ``torch.optim``; ours.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import (
    TreeSpec,
    tree_flatten,
    tree_flatten_with_path,
    tree_unflatten,
)

from nested.levels.rule import UpdateRule
from nested.optim.base import INFINITY, MemoryOptimizer, is_look
from nested.rules.guard import (
    KEPT,
    Record,
    go_back,
    has_climbed,
    is_worth_keeping,
    keep,
    new_record,
    note_promise,
    rise_since_kept,
)
from nested.rules.pieces import MATRICES, averaged, gathered, put_back, split
from nested.rules.pretrained import fingerprint, is_checkpoint, load_rule, outside_of, read_card
from nested.rules.saved_state import check_made_for, completed

CLIMBED = (
    "the loss climbed after a step of this rule, so the weights went back and further steps are"
    " smaller: try a group's lr of 0.1, or compare with AdamW"
)
USER = 5  # frames between a warning and the call of step
MOST_FORMS = 64  # of states, kept for the sets of weights that had gradients
Form = tuple[list[tuple[str, str | None]], TreeSpec]  # of a state: a key for each leaf, and whose


class Piece(NamedTuple):
    """One tensor that the rule sees, of a parameter."""

    owner: Tensor  # the parameter
    whole: Tensor  # all of it: see ``gathered``
    weight: Tensor  # what the rule sees, a view of the whole
    suffix: str  # of its keys in the state of the parameter


class LearnedOptimizer(MemoryOptimizer):
    """Moves weights by an ``UpdateRule``, such as one that ``meta_train`` taught.

    ``lr`` of a group multiplies the rule's steps: 1 leaves them as they are, and schedulers may
    drive it (cyclic ones with ``cycle_momentum=False``: there is no momentum to drive). Each group
    of parameters is a run of its own to the rule, with one count of steps: what is unfrozen late
    should come late, by ``add_param_group``. Weights without a gradient stay, and so does what the
    rule remembers of them. The rule is copied to where the weights are. One that sees its progress
    needs ``total_steps``, the number of optimizer steps that there will be; one that sees the loss
    needs ``step(closure)`` or ``step(loss=loss)``.

    ``"matrices"`` of a group says how the rule sees its tensors: ``True`` as matrices of R rows
    where they are (R, ...); ``False`` as vectors, for embeddings and heads; ``"stacks"`` sees each
    matrix (R, C) of (..., R, C) on its own. Of a distributed tensor the rule sees all, and each
    process holds the whole state. Where processes train together, the loss is averaged over them.

    A step that makes the loss climb is taken back: the next call of ``step`` sets the weights to
    those before it and leaves its own gradient out. From then on ``trust`` also multiplies the
    steps; it is 1 at first, and a quarter after each climb. Gradients tell a climb; where they are
    clipped to a length they do not, so pass the loss there. See ``nested.rules.guard``.

    Raises ``TypeError`` for a rule that is none; ``ValueError`` for settings out of range, for a
    rule that is not told its total steps, or where it needs the loss and gets none;
    ``RuntimeError`` for a step without any gradient, or for a weight whose shape has changed.
    """

    ranges = {"lr": (0.0, INFINITY)}
    kept = ("shared", "guard")  # what it keeps in a group

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
        settings = {"lr": 1.0, "matrices": True, "rule": type(rule).__name__, "total_steps": told}
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
        card = {} if is_checkpoint(name) else read_card(name)
        outside = outside_of(card, shapes, total_steps)
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
        if loss is None and is_look(self.state, self.param_groups):
            for group in self.param_groups:
                self.begin(group, [p for p in group["params"] if p.grad is not None and p.numel()])
            return None
        if self.rule.needs_loss and loss is None:
            raise ValueError("this rule sees the loss: call step(closure), or step(loss=loss)")
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(f"the loss is one number, but got shape {tuple(loss.shape)}")
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            raise RuntimeError("no weight has a gradient: call loss.backward() before step()")
        self.loss = None if loss is None else averaged(_as_scalar(loss))
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

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Give ``params``, tensors (...) of ``group``, the state that they start from, unless they
        have one."""
        if any("shape" not in self.state.get(p, ()) for p in params):
            self._form(group, self._pieces(group, params))

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        pieces, shared = self._pieces(group, params), group.setdefault("shared", {})
        keys, spec = self._form(group, pieces)
        places = [
            (shared, key) if n is None else (self.state[pieces[n].owner], key + pieces[n].suffix)
            for key, n in keys
        ]
        state = tree_unflatten([place[key] for place, key in places], spec)
        wholes = [gathered(p.grad) for p in params]
        parts = [part for whole in wholes for part in split(whole, group["matrices"])]
        grads = dict(zip(pieces, parts, strict=True))
        weights = {name: piece.weight for name, piece in pieces.items()}
        scale = float(group["lr"]) * self.trust
        if hasattr(self.rule, "move_in_place"):
            self.rule.move_in_place(weights, grads, state, scale)
        else:
            first = parts[0]
            loss = first.new_zeros(()) if self.loss is None else self.loss.to(first.device)
            step = self.rule(weights, grads, state, loss)
            for (place, key), leaf in zip(places, tree_flatten(step.state)[0], strict=True):
                place[key] = leaf
            for name, p in weights.items():
                p.copy_(step.params[name]) if scale == 1 else p.lerp_(step.params[name], scale)
        for p, whole in {piece.owner: piece.whole for piece in pieces.values()}.items():
            put_back(p, whole)

    def _pieces(self, group: dict[str, Any], params: list[Tensor]) -> dict[str, Piece]:
        """What the rule sees of ``params``: a tensor for each, or for each matrix of a stack."""
        numbers, pieces = {p: i for i, p in enumerate(group["params"])}, {}
        for p in params:
            whole = gathered(p)
            parts = split(whole, group["matrices"])
            for j, part in enumerate(parts):
                suffix = f".{j}" if len(parts) > 1 else ""
                pieces[f"weight {numbers[p]}{suffix}"] = Piece(p, whole, part, suffix)
        return pieces

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        if group["matrices"] not in MATRICES:
            got = group["matrices"]
            raise ValueError(f"LearnedOptimizer: matrices is one of {MATRICES}, but got {got!r}")

    def _check_shapes(self, group: dict[str, Any]) -> None:
        for i, p in enumerate(group["params"]):
            shape = self.state.get(p, {}).get("shape", list(p.shape))
            if shape != list(p.shape):
                was, now = tuple(shape), tuple(p.shape)
                raise RuntimeError(
                    f"weight {i} had shape {was} and has {now}: make a new optimizer for it"
                )

    def _form(self, group: dict[str, Any], pieces: dict[str, Piece]) -> Form:
        """The leaves that the rule's state has for these weights; new ones start here."""
        new = {piece.owner for piece in pieces.values() if "shape" not in self.state[piece.owner]}
        names = tuple(pieces)
        if new or names not in self.forms or "shared" not in group:
            start = self.rule.init({name: piece.weight for name, piece in pieces.items()})
            found, spec = tree_flatten_with_path(start)
            keys = [_key(path, pieces) for path, _ in found]
            if len(self.forms) >= MOST_FORMS:
                self.forms.clear()
            self.forms[names] = keys, spec
            shared = group.setdefault("shared", {})
            for (key, name), (_, leaf) in zip(keys, found, strict=True):
                if name is None:
                    shared.setdefault(key, leaf)
                else:
                    piece = pieces[name]
                    self.state[piece.owner].setdefault(key + piece.suffix, leaf)
            for p in new:
                self.state[p]["shape"] = list(p.shape)
        for piece in pieces.values():
            if KEPT not in self.state[piece.owner]:  # as in a state that an older version saved
                self.state[piece.owner][KEPT] = piece.owner.detach().clone()
        return self.forms[names]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``. Raises ``ValueError``, before anything changes, for the
        state of another optimizer or rule, of weights of other shapes, of a run of another length,
        or with settings out of range. A state of an older version, without a fingerprint of its
        rule, is taken with a warning."""
        state_dict = completed(state_dict, self.defaults)
        weights = [p for group in self.param_groups for p in group["params"]]
        check_made_for(state_dict, self.defaults, [tuple(p.shape) for p in weights])
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            device = group["params"][0].device
            shared = group.get("shared", {})
            group.update({"shared": {key: leaf.to(device) for key, leaf in shared.items()}})

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
