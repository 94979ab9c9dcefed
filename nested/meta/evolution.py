"""The hypergradient without differentiating: persistent evolution strategies.

Letters: N particles, in N / 2 antithetic pairs; K inner steps in a window. Source: PES is Vicol et
al. 2021 (arXiv 2112.13835).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map_only

from nested.levels.detach import detached
from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.lend import call_with
from nested.levels.rule import Step, UpdateRule
from nested.meta.config import MetaConfig
from nested.meta.meta_step import MetaStep, MetaStepResult
from nested.meta.objective import task_losses
from nested.meta.wrapped import Wrapped
from nested.unroll.batched import unroll_tasks
from nested.unroll.over_tasks import over_tasks


class Particles(Wrapped):
    """N versions of a rule, each moving a task of its own. ``weights`` {name: (N, ...)} are those
    of the N rules. State and signals are the rule's, with a leading N."""

    takes_tasks = True

    def __init__(self, rule: UpdateRule, weights: Params) -> None:
        super().__init__(rule)
        self.weights = weights

    def for_horizon(self, total_steps: int) -> UpdateRule:
        return Particles(self.rule.for_horizon(total_steps), self.weights)

    def init(self, params: Params) -> State:
        return self.rule.init(params)

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        def one_particle(weights: Params, *arguments) -> Step:
            return call_with(self.rule, weights, *arguments)

        return over_tasks(one_particle)(self.weights, params, grads, state, loss)


class EvolutionStep(MetaStep):
    """A ``MetaStep`` whose gradient is estimated from N = ``config.tasks`` perturbed rules.

    In each window every particle's rule is the rule plus a fresh perturbation e ~ N(0, sigma^2).
    Perturbations are antithetic in pairs that share task, weights and batches. A run goes on from
    window to window. Let x be the sum of a particle's perturbations since its run began, and L its
    loss in this window. Then

        hypergradient  ~  1 / (N sigma^2)  sum_i  x_i L_i

    which, summed over the windows of runs, is unbiased for the gradient of the smoothed meta-loss
    of *whole* runs: x says how earlier perturbations, too, have led here. With windows as long as
    the run it is plain (full) evolution strategies. It needs no graph, whatever the horizon, and no
    derivative: not even of the loss.
    """

    def __init__(self, rule: UpdateRule, config: MetaConfig, generator: Generator) -> None:
        super().__init__(rule, config)
        self.generator = generator
        self.learned_names = [n for n, p in rule.named_parameters() if p.requires_grad]
        self.sums: Params = {}  # of perturbations since the runs began, {name: (N, ...)}

    def begin(self) -> None:
        """Forget earlier perturbations: new runs begin."""
        self.sums = {}

    def estimate(
        self, loss_fn: LossFn, params: Params, state: State, batches: list[Batch], query: Batch
    ) -> tuple[MetaStepResult, tuple[Tensor, ...]]:
        """As in ``MetaStep``, for N particles at ``params`` {name: (N, ...)}. Raises what
        ``unroll_tasks`` does."""
        config, sigma = self.config, self.config.sigma
        learned = dict(zip(self.learned_names, self.learned, strict=True))
        noise = {name: self._draw(p.detach()) for name, p in learned.items()}
        weights = {name: p.detach() + noise[name] for name, p in learned.items()}
        self.sums = {name: self.sums.get(name, 0) + e for name, e in noise.items()}
        fixed = {n: p.detach() for n, p in self.rule.named_parameters() if n not in learned}
        fixed |= dict(self.rule.named_buffers())
        repeated = {n: x.expand(config.tasks, *x.shape) for n, x in fixed.items()}
        run = unroll_tasks(
            loss_fn,
            params,
            batches,
            Particles(self.rule, {**repeated, **weights}),
            state,
            backend=config.backend,
            differentiable=False,
        )
        with torch.no_grad():
            losses = task_losses(loss_fn, run, query, config.objective)  # (N,)
            grads = tuple(
                torch.tensordot(losses, self.sums[name], dims=1) / (config.tasks * sigma**2)
                for name in learned
            )
        signals = {name: signal.float().mean() for name, signal in run.signals.items()}
        rest = detached((run.params, run.state))
        return MetaStepResult(*rest, losses.mean(), losses.new_zeros(()), signals), grads

    def _draw(self, like: Tensor) -> Tensor:
        """Perturbations (N, ...) of a parameter (...), the second of each pair minus the first."""
        shape = (self.config.tasks // 2, *like.shape)
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float32)
        half = self.config.sigma * drawn.to(like)
        return torch.stack([half, -half], dim=1).flatten(0, 1)


def repeat_for_pairs(tree: Batch) -> Batch:
    """Each of the tensors (T, ...) of a nested structure with every task twice, (2 T, ...), the two
    of a pair side by side."""
    return tree_map_only(Tensor, lambda x: x.repeat_interleave(2, dim=0), tree)
