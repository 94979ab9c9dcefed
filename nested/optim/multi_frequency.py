"""Run any optimizer at many frequencies: each group of parameters has its clock.

State: what the base optimizer keeps, and a sum of gradients.  It sees: gradients.  Clock:
each group's ``period``. Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 70-71 and Definition 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from nested.levels.clock import Clock
from nested.optim.base import MemoryOptimizer, check_keys, check_saved, only_creates_state, state_of
from nested.optim.dgd import DGD
from nested.optim.sharded import is_sharded

REDUCTIONS = ("sum", "mean")


class NestedOptimizer(Optimizer):
    """Update each group of weights every ``"period"`` steps, by all gradients since the last time.

    ``params`` are parameters, or groups {"params": ..., "period": steps, ...}. The default period
    is 1. A group adds up its gradients (...). At every period-th step ``base`` updates the weights
    by the sum, which includes the current gradient (``reduction="sum"``), or by its mean over the
    steps (``"mean"``). All weights take part in every forward pass. With all periods 1 the result
    is that of ``base``, which gets ``base_kwargs``.

    Call ``flush`` after the last step, to apply the gradients that still wait. Memory: that of
    ``base``, and one gradient for each weight of period 2 or more. Sums have the gradient's dtype.

    Raises ``ValueError`` for a period that is no whole number from 1, another reduction, or no
    parameters. It also refuses a key of a group that is no setting, and a base that cannot wait.
    LBFGS cannot, as it evaluates the loss many times a step; DGD needs the inputs of all steps; M3
    and this class have periods already. Raises ``TypeError`` if ``params`` is no iterable of
    parameters or groups.
    """

    def __init__(
        self,
        params: Any,
        base: type[Optimizer] = torch.optim.AdamW,
        reduction: str = "sum",
        **base_kwargs: Any,
    ) -> None:
        if not (isinstance(base, type) and issubclass(base, Optimizer)):
            got = f"an instance of {type(base).__name__}" if isinstance(base, Optimizer) else base
            raise ValueError(f"base is a torch.optim class, such as AdamW, but got {got!r}")
        for refused, why in REFUSED.items():
            if issubclass(base, refused):
                raise ValueError(f"base cannot be {base.__name__}, which {why}")
        if isinstance(params, (Tensor, dict)):
            raise TypeError("params is an iterable of parameters or of groups: put it in a list")
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list: was a generator used twice?")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        clocks = {**CLOCKS, "reduction": reduction, "base": base.__name__}
        parts = [_cut_clocks(group, clocks) for group in groups]
        self.base = base([group for group, _ in parts], **base_kwargs)
        if taken := sorted(CLOCKS.keys() & self.base.defaults.keys()):
            raise ValueError(
                f"base cannot be {base.__name__}, which has a setting {taken[0]} already"
            )
        self.sums: dict[Tensor, dict[str, Any]] = {}  # of each weight that waits
        self.starts_empty = not self.base.state
        # both optimizers hold the same dicts, so that a scheduler's lr reaches the base
        for group, (_, clock) in zip(self.base.param_groups, parts):
            self._check_keys(group)
            group.update(clock)
        super().__init__(self.base.param_groups, {**self.base.defaults})

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        """What ``base`` keeps of each weight, and the sum that waits. The dicts are copies, the
        tensors (...) in them are not."""
        merged: dict[Any, dict[str, Any]] = defaultdict(dict)
        if self.base.state or self.sums:
            for group in self.param_groups:
                for p in group["params"]:
                    waiting = self.sums.get(p)
                    if group["period"] > 1 and not waiting:  # the same names at every step
                        waiting = _no_sum(p)
                    merged[p] = {**self.base.state.get(p, {}), **(waiting or {})}
        return merged

    @state.setter
    def state(self, _: Any) -> None:
        """Ignore the empty state that ``torch.optim.Optimizer`` sets: ``base`` has the state."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group {"params": ..., "period": steps, ...}; its clock starts now. Raises
        ``ValueError`` and ``TypeError`` as the constructor does."""
        if all(param_group is not group for group in self.base.param_groups):
            first = self.param_groups[0]
            clocks = {**CLOCKS, "reduction": first["reduction"], "base": first["base"]}
            group, clock = _cut_clocks(param_group, clocks)
            self._check_keys(group)
            self.base.add_param_group(group)
            param_group = self.base.param_groups[-1]
            param_group.update(clock)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update the groups whose clock is due. ``closure``, if given, computes the loss () and its
        gradients; that loss is returned. Raises what ``base`` raises."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if only_creates_state(self.base.state or self.sums, self.param_groups):
            self.base.step()
            for group in self.param_groups:
                if group["period"] > 1:
                    self.sums |= {p: _no_sum(p) for p in group["params"] if p.grad is not None}
            return loss
        due = []
        for group in self.param_groups:
            group["steps"] += 1
            if group["period"] > 1 or group["waiting"]:
                self._gather(group)
            due.append(Clock(group["period"]).due(group["steps"]))
        self._move(due)
        return loss

    @torch.no_grad()
    def flush(self) -> None:
        """Apply the gradients that still wait in a sum: call it after the last step.

        A mean is taken over the steps that waited. Clocks do not change, and neither do weights
        without a waiting gradient. Raises what ``base`` raises.
        """
        waiting = [group["waiting"] > 0 for group in self.param_groups]
        if any(waiting):
            self._move(waiting)

    def moves(self) -> dict[str, int]:
        """Count the updates of each group: {its "name", or "group 0", ...: updates}. A repeated
        name gets the group's number too."""
        counts: dict[str, int] = {}
        for i, group in enumerate(self.param_groups):
            name = group.get("name", f"group {i}")
            counts[f"{name} ({i})" if name in counts else name] = group["moves"]
        return counts

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Return the state of all weights, with the same names at every step. To that end ``base``
        creates the state of weights that it has not updated yet."""
        unmoved = [group for group in self.param_groups if not group["moves"]]
        if (self.base.state or self.sums) and self.starts_empty and unmoved:
            self._begin(unmoved)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a copy of ``state_dict``, also between two updates of a group. Raises
        ``ValueError`` for other groups, and for the state of another optimizer or base."""
        settings = {**CLOCKS, "base": None, **self.base.defaults}
        check_saved("NestedOptimizer", settings, state_dict, "state", "param_groups")
        groups, ours = state_dict["param_groups"], self.param_groups[0]["base"]
        for group in groups:
            self._check_keys({name: value for name, value in group.items() if name != "base"})
            if group["base"] != ours:
                raise ValueError(
                    f"this state is of a NestedOptimizer with base {group['base']}, but here it is"
                    f" {ours}: make one with the same"
                )
        state = state_of(state_dict)
        sums = {i: {n: values.pop(n) for n in SUM if n in values} for i, values in state.items()}
        for group in groups:
            if not group["moves"] and self.starts_empty:
                for i in group["params"]:  # the base begins anew at the first update
                    state.pop(i, None)
        bare = [
            {name: group[name] for name in group if name not in {*CLOCKS, "base"}}
            for group in groups
        ]
        self.base.load_state_dict({"state": state, "param_groups": bare})
        super().load_state_dict({**state_dict, "state": sums})
        sums = self.__dict__.pop("state")
        self.sums = {p: values for p, values in sums.items() if values.get("waiting")}
        for group, loaded in zip(self.base.param_groups, self.param_groups):
            group.update({name: loaded[name] for name in (*CLOCKS, "base")})
        self.param_groups = list(self.base.param_groups)

    def __getstate__(self) -> dict[str, Any]:
        names = ("defaults", "param_groups", "base", "sums", "starts_empty")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults = {**self.base.defaults}  # without settings that torch adds

    def _check_keys(self, group: dict[str, Any]) -> None:
        check_keys("NestedOptimizer", group, {*CLOCKS, *self.base.defaults})

    def _begin(self, groups: list[dict[str, Any]]) -> None:
        """Let the base create the state of these groups, by a step with rates and gradients 0."""
        if isinstance(self.base, MemoryOptimizer):
            for group in groups:
                self.base.begin(group, [p for p in group["params"] if p.numel()])
            return
        saved = [(p, p.grad) for group in self.param_groups for p in group["params"]]
        rates = [(group, group["lr"]) for group in groups if "lr" in group]
        for p, _ in saved:
            p.grad = None
        for group in groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.requires_grad else None
        for group, rate in rates:
            group["lr"] = torch.zeros_like(rate) if isinstance(rate, Tensor) else 0.0
        try:
            self.base.step()
        finally:
            for p, grad in saved:
                p.grad = grad
            for group, rate in rates:
                group["lr"] = rate

    def _gather(self, group: dict[str, Any]) -> None:
        """Add the gradients of a group to their sums."""
        group["waiting"] += 1
        # torch adds many tensors in one call, but not plain and sharded ones together
        additions: dict[bool, tuple[list[Tensor], list[Tensor]]] = {False: ([], []), True: ([], [])}
        for p in group["params"]:
            if p.grad is None:
                continue
            entry = self.sums.get(p)
            if entry is None:
                self.sums[p] = {"waiting_sum": p.grad.clone(), "waiting": 1}
                continue
            if entry["waiting"]:
                sums, grads = additions[is_sharded(entry["waiting_sum"])]
                sums.append(entry["waiting_sum"])
                grads.append(p.grad)
            else:
                entry["waiting_sum"].copy_(p.grad)
            entry["waiting"] += 1
        for sums, grads in additions.values():
            if sums:
                torch._foreach_add_(sums, grads)

    def _move(self, is_moving: list[bool]) -> None:
        """Let the base update the groups that are moving, by their sums if they have one."""
        pairs = list(zip(self.param_groups, is_moving, strict=True))
        put_back = []
        for group, moves in pairs:
            if not moves or group["waiting"]:
                put_back += [(p, p.grad) for p in group["params"]]
                self._show_sums(group, moves)
            if moves and not group["moves"] and self.starts_empty:
                for p in group["params"]:  # the base begins anew at the first update
                    self.base.state.pop(p, None)
        try:
            self.base.step()
        finally:
            for p, grad in put_back:
                p.grad = grad
        for group, moves in pairs:
            group["moves"] += moves
            if moves and group["waiting"]:
                group["waiting"] = 0
                for p in group["params"]:
                    if p in self.sums:
                        self.sums[p]["waiting"] = 0

    def _show_sums(self, group: dict[str, Any], moves: bool) -> None:
        """Replace gradients by their sums; in a group that does not move, by ``None``."""
        for p in group["params"]:
            entry = self.sums.get(p) if moves else None
            p.grad = entry["waiting_sum"] if entry and entry["waiting"] else None
            if p.grad is not None and group["reduction"] == "mean":
                p.grad = p.grad / group["waiting"]


CLOCKS = {"period": 1, "reduction": "sum", "steps": 0, "moves": 0, "waiting": 0}
SUM = ("waiting_sum", "waiting")  # in the state of a weight: the sum and its number of gradients
REFUSED = {  # bases that cannot wait, and the reason
    LBFGS: "evaluates the loss many times a step",
    DGD: "needs the inputs of every step, not the sum of gradients",
    NestedOptimizer: "has clocks already",
}


def _no_sum(p: Tensor) -> dict[str, Any]:
    """Make the entry of a weight (...) for which no gradient waits."""
    return {"waiting_sum": torch.zeros_like(p), "waiting": 0}


def _cut_clocks(
    group: dict[str, Any], clocks: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a user's group into what the base gets, and the settings of its clock."""
    if not isinstance(group, dict) or "params" not in group:
        raise TypeError(f'a group is a dict {{"params": ..., "period": ...}}, but got {group!r}')
    clock = {**clocks, **{name: group[name] for name in CLOCKS if name in group}}
    Clock(clock["period"])
    if clock["reduction"] not in REDUCTIONS:
        raise ValueError(f"reduction is one of {REDUCTIONS}, but got {clock['reduction']!r}")
    rest = {name: value for name, value in group.items() if name not in CLOCKS}
    if isinstance(rest["params"], Iterable) and not isinstance(rest["params"], (Tensor, set)):
        rest["params"] = list(rest["params"])
    return rest, clock
