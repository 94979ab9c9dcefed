"""The same task in other units: what a rule must not come to rely on.

Letters: T tasks. Source: re-scaled parameters as augmentation are Celo's (arXiv 2501.12670).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from nested.levels.forward import Params, State
from nested.levels.rule import Step, UpdateRule
from nested.meta.wrapped import Wrapped
from nested.tasks.family import draw_log_uniform
from nested.unroll.batched import rule_of_tasks
from nested.unroll.over_tasks import over_tasks


class Rescaled(Wrapped):
    """Shows ``rule`` each tensor of weights w (...) in another unit s.

    The rule sees w / s and the gradient s g, and its new weights are multiplied by s. So a rule
    meets nets whose weights are much larger or smaller, and learns not to rely on their size.
    State: "scale" {name: ()}, and the rule's under "own". Signals are the rule's.
    """

    takes_tasks = True

    def for_horizon(self, total_steps: int) -> UpdateRule:
        return Rescaled(self.rule.for_horizon(total_steps))

    def init(self, params: Params) -> State:
        scale = {name: p.new_ones(()) for name, p in params.items()}
        return {"scale": scale, "own": self.rule.init(params)}

    def start(self, params: Params, reach: float, generator: Generator) -> State:
        """The first state of T tasks with weights {name: (T, ...)}, their units drawn log-uniform
        from 1 / ``reach`` to ``reach``. Raises what the rule's ``init`` does."""
        scale = {}
        for name, p in params.items():
            drawn = [draw_log_uniform(1 / reach, reach, generator) for _ in range(len(p))]
            scale[name] = torch.tensor(drawn, dtype=torch.float32).to(p)
        scaled = {name: p / _beside(scale[name], p) for name, p in params.items()}
        return {"scale": scale, "own": over_tasks(self.rule.init)(scaled)}

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        rule = rule_of_tasks(self.rule) if loss.dim() else self.rule
        units = {name: _beside(state["scale"][name], p) for name, p in params.items()}
        scaled = {name: p / units[name] for name, p in params.items()}
        scaled_grads = {name: g * units[name] for name, g in grads.items()}
        step = rule(scaled, scaled_grads, state["own"], loss)
        params = {name: p * units[name] for name, p in step.params.items()}
        return Step(params, {"scale": state["scale"], "own": step.state}, step.signals)


def _beside(scale: Tensor, p: Tensor) -> Tensor:
    return scale.reshape(scale.shape + (1,) * (p.dim() - scale.dim()))
