"""Any optimizer at many frequencies: each group of parameters has a clock of its own.

State: what the base optimizer keeps, and a running sum of gradients.  It sees: gradients.  Clock:
each group's ``period``. Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 70-71 and Definition 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from nested.levels.clock import Clock
from nested.optim.base import check_saved
from nested.optim.dgd import DGD

REDUCTIONS = ("sum", "mean")


class NestedOptimizer(Optimizer):
    """A ``torch.optim`` class whose groups move every ``"period"`` steps, on all gradients since.

    ``params`` are parameters, or groups {"params": ..., "period": steps, ...}; a group without a
    period has 1. In between, a group's gradients (...) are added up; at every period-th step its
    weights are moved by ``base`` on their sum, the last one included (``reduction="sum"``), or on
    the sum over the period (``"mean"``). The weights take part in every forward pass all the same.
    With all periods 1 it is ``base``. ``base_kwargs`` go to ``base``. Memory: that of ``base``, and
    one gradient for each weight of period 2 or more.

    Sums are in the gradient's dtype. Raises ``ValueError`` for a period that is no whole number
    from 1, another reduction, no parameters, or a base that cannot wait: LBFGS asks for the loss
    many times a step, DGD for the inputs of all steps, M3 and this class have periods already;
    ``TypeError`` for params that are no iterable of parameters or groups.
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
                raise ValueError(f"base is not to be {base.__name__}, which {why}")
        if isinstance(params, (Tensor, dict)):
            raise TypeError("params is an iterable of parameters or of groups: put it in a list")
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list: was a generator used twice?")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        # both optimizers hold the same dicts, so that a scheduler's lr reaches the base
        groups = [_with_clock(group, reduction) for group in groups]
        self.base = base(groups, **base_kwargs)
        if taken := sorted(CLOCKS.keys() & self.base.defaults.keys()):
            raise ValueError(
                f"base is not to be {base.__name__}, which has a {taken[0]} of its own"
            )
        super().__init__(self.base.param_groups, self.base.defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group {"params": ..., "period": steps, ...}; its clock starts now. Raises
        ``ValueError`` and ``TypeError`` as the constructor does."""
        if all(param_group is not group for group in self.base.param_groups):
            param_group = _with_clock(param_group, self.param_groups[0]["reduction"])
            self.base.add_param_group(param_group)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move the groups whose clock is due. ``closure``, if given, computes the loss () and its
        gradients anew, and that loss is returned. Raises what ``base`` raises."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        put_back = []
        for group in self.param_groups:
            group["steps"] += 1
            is_due = Clock(group["period"]).due(group["steps"])
            group["moves"] += is_due
            if group["period"] > 1:
                put_back += [(p, p.grad) for p in group["params"]]
                self._gather(group, is_due)
        try:
            self.base.step()
        finally:
            for p, grad in put_back:
                p.grad = grad
        return loss

    def _gather(self, group: dict[str, Any], is_due: bool) -> None:
        """Add the gradients to their sums; show the sums to the base if the group is due."""
        old, new = [], []  # sums, and the gradients that belong to them
        for p in group["params"]:
            state = self.state[p]
            if p.grad is not None and "sum" in state:
                old.append(state["sum"])
                new.append(p.grad)
            elif p.grad is not None:
                state["sum"] = p.grad.clone()
        if old:
            torch._foreach_add_(old, new)
        for p in group["params"]:
            p.grad = self.state[p].pop("sum", None) if is_due else None
            if p.grad is not None and group["reduction"] == "mean":
                p.grad.div_(group["period"])

    def moves(self) -> dict[str, int]:
        """How often each group has moved: {its "name", or "group 0", ...: moves}; a name that is
        there twice gets its number too."""
        found: dict[str, int] = {}
        for i, group in enumerate(self.param_groups):
            name = group.get("name", f"group {i}")
            found[f"{name} ({i})" if name in found else name] = group["moves"]
        return found

    def state_dict(self) -> dict[str, Any]:
        """The sums and groups, and the state of ``base`` under "base"."""
        return {**super().state_dict(), "base": self.base.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``, also off the clock. Raises ``ValueError`` for other groups,
        or the state of another optimizer."""
        settings = {**CLOCKS, **self.base.defaults}
        check_saved("NestedOptimizer", settings, state_dict, "state", "param_groups", "base")
        self.base.load_state_dict(state_dict["base"])
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        self.param_groups = self.base.param_groups

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base": self.base}


def periods_by_name(module: nn.Module, periods: Mapping[str, int]) -> list[dict[str, Any]]:
    """Groups for ``NestedOptimizer``: each parameter of ``module`` takes the period, in steps, of
    the longest of the given names that it lies under ("" is all of them: its default is 1).

    Raises ``ValueError`` for a name that no parameter lies under, a period under 1, or periods that
    are no dict of names.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> [(g["name"], g["period"], len(g["params"])) for g in periods_by_name(net, {"1": 10})]
    [('all others', 1, 2), ('1', 10, 2)]
    """
    if not (isinstance(periods, Mapping) and all(isinstance(name, str) for name in periods)):
        raise ValueError(f"periods is a dict from names to steps, but got {periods!r}")
    for period in periods.values():
        Clock(period)
    members: dict[str, list[nn.Parameter]] = {name: [] for name in sorted({"", *periods}, key=len)}
    for parameter_name, parameter in module.named_parameters():
        under = [n for n in members if not n or f"{parameter_name}.".startswith(f"{n}.")]
        members[under[-1]].append(parameter)
    empty = [name for name in periods if name and not members[name]]
    if empty:
        known = [name for name, _ in module.named_parameters()]
        raise ValueError(f"no parameter lies under {empty}: there are {known}")
    return [
        {"params": parameters, "period": periods.get(name, 1), "name": name or "all others"}
        for name, parameters in members.items()
        if parameters
    ]


def periods_by_depth(module: nn.Module, periods: Sequence[int]) -> list[dict[str, Any]]:
    """Groups for ``NestedOptimizer``: the layers of ``module`` (modules with parameters of their
    own), in order, are cut into ``len(periods)`` equal parts, the first of which takes the first
    period, in steps. Raises ``ValueError`` for more periods than layers, a period under 1, or
    periods that are no tuple or list.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [(g["name"], g["period"]) for g in periods_by_depth(net, (10, 1))]
    [('depth 0', 10), ('depth 1', 1)]
    """
    if not isinstance(periods, (tuple, list)):
        raise ValueError(f"periods is a tuple of steps, one for each part, but got {periods!r}")
    for period in periods:
        Clock(period)
    layers = [list(layer.parameters(recurse=False)) for layer in module.modules()]
    layers = [layer for layer in layers if layer]
    if not 1 <= len(periods) <= len(layers):
        raise ValueError(f"{len(layers)} layers take 1 to {len(layers)} periods, not {periods}")
    groups = [{"params": [], "period": p, "name": f"depth {i}"} for i, p in enumerate(periods)]
    seen: set[nn.Parameter] = set()
    for i, layer in enumerate(layers):
        own = [p for p in layer if p not in seen]  # tied weights go with their first layer
        groups[i * len(periods) // len(layers)]["params"] += own
        seen.update(own)
    return [group for group in groups if group["params"]]


CLOCKS = {"period": 1, "reduction": "sum", "steps": 0, "moves": 0}  # what a group gets
REFUSED = {  # bases, and what they would need at each step
    LBFGS: "asks for the loss many times a step",
    DGD: "needs the inputs of every step, not their gradients' sum",
    NestedOptimizer: "has clocks of its own",
}


def _with_clock(group: dict[str, Any], reduction: str) -> dict[str, Any]:
    if not isinstance(group, dict) or "params" not in group:
        raise TypeError(f'a group is a dict {{"params": ..., "period": ...}}, but got {group!r}')
    group = {**CLOCKS, "reduction": reduction, **group}
    Clock(group["period"])
    if group["reduction"] not in REDUCTIONS:
        raise ValueError(f"reduction is one of {REDUCTIONS}, but got {group['reduction']!r}")
    if isinstance(group["params"], Iterable) and not isinstance(group["params"], (Tensor, set)):
        group["params"] = list(group["params"])
    return group
