"""Use a learned rule in any training loop, as a ``torch.optim.Optimizer`` without a graph.

State: that of the rule, for each weight.  It sees: gradients, and the loss if the rule needs it.
Clock: every batch.
Source: the conventions of ``torch.optim``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from nested.levels.rule import UpdateRule
from nested.optim.base import INFINITY, MemoryOptimizer, only_creates_state
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
from nested.rules.state_layout import Layout, Piece, layout_of, pieces_of, slots_of

CLIMBED = (
    "the loss climbed after a step of this rule, so the step was undone and further steps are"
    " smaller: try a group's lr of 0.1, or compare with AdamW"
)
STACK_LEVEL = 5  # so that a warning shows the user's call of step
MAX_LAYOUTS = 64  # cached, one for each set of weights that had gradients together


class LearnedOptimizer(MemoryOptimizer):
    """Train any model with an ``UpdateRule``, such as one that ``meta_train`` has trained.

    ``lr`` of a group multiplies the rule's steps; 1 leaves them unchanged. Schedulers may change
    it. Cyclic ones need ``cycle_momentum=False``, as there is no momentum to change. A rule that
    sees its progress needs ``total_steps``, the number of optimizer steps of the run. A rule that
    sees the loss needs ``step(closure)`` or ``step(loss=loss)``.

    The rule treats each group as one run, with one step count. So add weights that you unfreeze
    late by ``add_param_group``, at that time. Weights without a gradient stay unchanged, and so
    does their state. The rule is copied to the device of the weights.

    ``"matrices"`` of a group says what the rule sees of a weight. ``True``: a matrix of R rows for
    (R, ...). ``False``: a vector, for embeddings and heads. ``"stacks"``: every matrix (R, C) of
    (..., R, C) on its own. Of a distributed tensor the rule sees the whole, and each process holds
    the whole state. Processes that train together average the loss.

    A step that makes the loss climb is undone. The next call of ``step`` sets the weights back and
    ignores its own gradient. From then on ``trust`` also multiplies the steps: it starts at 1, and
    each climb divides it by 4. Gradients reveal a climb, unless they are clipped to a length; pass
    the loss there. See ``nested.rules.guard``.

    Raises ``TypeError`` if ``rule`` is no rule. Raises ``ValueError`` for settings out of range,
    for a missing ``total_steps``, and for a missing loss. Raises ``RuntimeError`` for a step
    without any gradient, and for a weight whose shape has changed.
    """

    ranges = {"lr": (0.0, INFINITY)}
    extra_keys = ("shared", "guard")

    def __init__(self, params: Any, rule: UpdateRule, *, total_steps: int | None = None) -> None:
        if not isinstance(rule, UpdateRule):
            got = type(rule).__name__
            raise TypeError(f"rule is an UpdateRule, such as load_rule() gives, but got {got}")
        self.rule = copy.deepcopy(rule if total_steps is None else rule.for_horizon(total_steps))
        horizon = getattr(self.rule, "total_steps", None)
        if _needs_horizon(self.rule) and horizon is None:
            raise ValueError(
                "this rule sees its progress: give total_steps, the number of optimizer steps"
            )
        self.layouts: dict[tuple[str, ...], Layout] = {}
        self.loss: Tensor | None = None  # of the current step
        settings = {"lr": 1.0, "matrices": True, "rule": type(rule).__name__}
        settings |= {"total_steps": horizon, "fingerprint": fingerprint(rule)}
        super().__init__(params, settings)
        self.rule.to(self.param_groups[0]["params"][0].device)

    @property
    def trust(self) -> float:
        """The factor by which the guard multiplies the rule's steps: 1 until the loss climbs."""
        return self._record()["trust"]

    @classmethod
    def from_pretrained(
        cls, name: Path | str = "default", params: Any = None, total_steps: int | None = None
    ) -> LearnedOptimizer:
        """Make an optimizer with the rule called ``name``: one of ``pretrained_names()``, or a file
        that ``save_rule`` wrote. ``from_pretrained(params, total_steps)`` uses the default rule.

        Warns once if the net or the run lies outside the range that the rule was trained on.
        Raises ``TypeError`` without ``params``. Raises ``ValueError`` for a rule that does not
        exist or cannot be read, and all that the constructor raises.
        """
        name, params, total_steps = _in_order(name, params, total_steps)
        optimizer = cls(params, load_rule(name), total_steps=total_steps)
        shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
        card = {} if is_checkpoint(name) else read_card(name)
        outside = outside_of(card, shapes, total_steps)
        if outside:
            warnings.warn(
                f"the rule {str(name)!r} was not trained on such a net or run: {outside}; compare"
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
        """Update all weights once. ``closure``, if given, computes the loss () and its gradients;
        that loss is returned. ``loss`` is one that you have computed; it may also be the first
        argument. Raises ``ValueError`` and ``RuntimeError`` as the class says, and ``TypeError``
        for a closure that cannot be called."""
        if isinstance(closure, (Tensor, float, int)) and loss is None:
            closure, loss = None, closure
        if closure is not None and not callable(closure):
            got = type(closure).__name__
            raise TypeError(f"step takes a closure or a loss, but got {got}: call step(loss=loss)")
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if loss is None and only_creates_state(self.state, self.param_groups):
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
        self._guarded_step()
        return loss if closure is not None else None

    def _record(self) -> Record:
        return self.param_groups[0].setdefault("guard", new_record())

    def _guarded_step(self) -> None:
        """Update all weights; or undo the last step, if the loss climbed after it."""
        record = self._record()
        weights = [p for group in self.param_groups for p in group["params"]]
        for group in self.param_groups:
            self._check_shapes(group)
        loss = None if self.loss is None or self.loss.is_meta else self.loss.item()
        rise = rise_since_kept(self.state, weights)
        if has_climbed(record, rise, loss):
            if not record["climbs"]:
                warnings.warn(CLIMBED, stacklevel=STACK_LEVEL)
            go_back(record, self.state, weights)
            return
        is_kept = is_worth_keeping(record, rise, loss)
        if is_kept:
            keep(record, self.state, weights, loss)
        record["steps"] += 1
        total = self.defaults["total_steps"]
        if _needs_horizon(self.rule) and record["steps"] - 1 == total:
            warnings.warn(
                f"this rule expected total_steps={total}, and now more steps come: they stay as"
                " small as the last ones; give the true number",
                stacklevel=STACK_LEVEL,
            )
        self.move_all()
        if is_kept:
            note_promise(record, self.state, weights)

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Give ``params``, tensors (...) of ``group``, an initial state, unless they have one."""
        if any("shape" not in self.state.get(p, ()) for p in params):
            self._layout(group, pieces_of(group, params))

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        pieces = pieces_of(group, params)
        layout = self._layout(group, pieces)
        slots = slots_of(layout, pieces, self.state, group["shared"])
        state = tree_unflatten([slot[key] for slot, key in slots], layout.spec)
        whole_grads = [gathered(p.grad) for p in params]
        parts = [part for whole in whole_grads for part in split(whole, group["matrices"])]
        grads = dict(zip(pieces, parts, strict=True))
        weights = {name: piece.weight for name, piece in pieces.items()}
        scale = float(group["lr"]) * self.trust
        if hasattr(self.rule, "move_in_place"):
            self.rule.move_in_place(weights, grads, state, scale)
        else:
            loss = parts[0].new_zeros(()) if self.loss is None else self.loss.to(parts[0].device)
            step = self.rule(weights, grads, state, loss)
            for (slot, key), leaf in zip(slots, tree_flatten(step.state)[0], strict=True):
                slot[key] = leaf
            for name, p in weights.items():
                if scale == 1:
                    p.copy_(step.params[name])
                else:
                    p.lerp_(step.params[name], scale)
        for p, whole in {piece.owner: piece.whole for piece in pieces.values()}.items():
            put_back(p, whole)

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

    def _layout(self, group: dict[str, Any], pieces: dict[str, Piece]) -> Layout:
        """Return the layout of the rule's state for ``pieces``; give new ones an initial state."""
        new = {piece.owner for piece in pieces.values() if "shape" not in self.state[piece.owner]}
        names = tuple(pieces)
        if new or names not in self.layouts or "shared" not in group:
            start = self.rule.init({name: piece.weight for name, piece in pieces.items()})
            layout, leaves = layout_of(start, pieces)
            if len(self.layouts) >= MAX_LAYOUTS:
                self.layouts.clear()
            self.layouts[names] = layout
            slots = slots_of(layout, pieces, self.state, group.setdefault("shared", {}))
            for (slot, key), leaf in zip(slots, leaves, strict=True):
                slot.setdefault(key, leaf)
            for p in new:
                self.state[p]["shape"] = list(p.shape)
        for piece in pieces.values():
            if KEPT not in self.state[piece.owner]:  # a state that an older version saved
                self.state[piece.owner][KEPT] = piece.owner.detach().clone()
        return self.layouts[names]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict``. Raises ``ValueError``, before anything changes, if it
        belongs to another optimizer, rule, net or length of run, or has settings out of range.
        A state of an older version, without a fingerprint of its rule, gives a warning."""
        state_dict = completed(state_dict, self.defaults)
        weights = [p for group in self.param_groups for p in group["params"]]
        check_made_for(state_dict, self.defaults, [tuple(p.shape) for p in weights])
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            device = group["params"][0].device
            shared = group.get("shared", {})
            group.update({"shared": {key: leaf.to(device) for key, leaf in shared.items()}})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "layouts": {}, "loss": None}


def _needs_horizon(rule: UpdateRule) -> bool:
    """Whether a rule sees the share of the run that is done, and so needs its total steps."""
    return hasattr(rule, "total_steps") and getattr(rule, "progress", True)


def _in_order(name: Any, params: Any, total_steps: int | None) -> tuple[Path | str, Any, Any]:
    """Sort the arguments of ``from_pretrained``, where the parameters may come first."""
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
