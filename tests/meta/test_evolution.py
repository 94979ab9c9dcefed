"""PES against gradients worked out by hand and by autograd through whole runs."""

import pytest
import torch
from torch import nn

import nested.meta.training as training
from nested import MetaConfig, MetaOptimizer, Step, UpdateRule, meta_train, unroll_tasks
from nested.meta.baselines import draw_tasks
from nested.meta.evolution import EvolutionStep, repeat_for_pairs
from nested.meta.meta_step import MetaStep
from nested.meta.objective import scored_losses
from nested.tasks import Quadratics
from tests.problems import generator

REPEATS, WINDOWS, K = 60, 3, 2


class Drift(UpdateRule):
    """``w <- w + theta``, so that a quadratic loss of w is one of theta: smoothing adds a constant,
    and evolution strategies estimate the gradient itself."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))

    def init(self, params):
        return {"step": next(iter(params.values())).new_zeros(())}

    def forward(self, params, grads, state, loss):
        moved = {name: p + self.theta for name, p in params.items()}
        return Step(moved, {"step": state["step"] + 1}, {"size": self.theta.norm()})


def bowl(params, batch):
    curvature, centre = batch
    away = params["w"] - centre
    return 0.5 * away @ curvature @ away


def run_of(tasks):
    """Weights, and for each window its batches and query, of copies of one task."""
    family, g = Quadratics(dim=3, noise=0.3, dtype=torch.float64), generator(1)
    task = family.sample(g)
    params = task.init(g)
    draws = [[task.batch(g) for _ in range(K)] for _ in range(WINDOWS)]
    queries = [task.batch(g, "query") for _ in range(WINDOWS)]

    def copies(batch):
        return tuple(x.expand(tasks, *x.shape) for x in batch)

    weights = {"w": params["w"].expand(tasks, 3)}
    return weights, [([copies(b) for b in d], copies(q)) for d, q in zip(draws, queries)]


def by_autograd(carry):
    """The gradient of the windows' mean losses, through all windows, or each cut off."""
    rule, (params, windows) = Drift(), run_of(1)
    state, total = torch.vmap(rule.init)(params), 0
    for batches, query in windows:
        run = unroll_tasks(bowl, params, batches, rule, state)
        total = total + scored_losses(bowl, run, query).mean()
        params = run.params if carry else {n: p.detach() for n, p in run.params.items()}
        state = run.state
    return torch.autograd.grad(total, rule.theta)[0]


def by_evolution(window_is_run, tasks=200):
    """Estimates of the same, (REPEATS, 3), from independent particles."""
    config = MetaConfig(unroll_length=K, tasks=tasks, estimator="pes", sigma=0.1)
    found = []
    for seed in range(REPEATS):
        rule = Drift()
        step = EvolutionStep(rule, config, generator(seed))
        params, windows = run_of(tasks)
        state, total = torch.vmap(rule.init)(params), 0
        for batches, query in windows:
            if window_is_run:
                step.begin()
            moved, (grad,) = step.estimate(bowl, params, state, batches, query)
            params, state, total = moved.params, moved.state, total + grad
        found.append(total)
    return torch.stack(found)


def agree(estimates, exact):
    error = estimates.std(0) / len(estimates) ** 0.5
    assert (error < 0.1 * exact.norm()).all()  # narrow enough to say something
    return ((estimates.mean(0) - exact).abs() < 3 * error).all()


def test_pes_over_windows_is_unbiased_for_the_gradient_of_whole_runs():
    estimates = by_evolution(window_is_run=False)
    assert agree(estimates, by_autograd(carry=True))
    assert not agree(estimates, by_autograd(carry=False))


def test_without_the_sum_of_perturbations_it_is_the_truncated_gradient():
    estimates = by_evolution(window_is_run=True)
    assert agree(estimates, by_autograd(carry=False))
    assert not agree(estimates, by_autograd(carry=True))


def test_full_unroll_and_truncated_windows_agree_where_runs_are_one_window():
    """``meta_train``'s own step, on a run of one window, against autograd by hand."""
    rule, (params, windows) = Drift(), run_of(4)
    batches, query = windows[0]
    state = torch.vmap(rule.init)(params)
    step = MetaStep(rule, MetaConfig(unroll_length=K, tasks=4))
    _, (grad,) = step.estimate(bowl, params, state, batches, query)
    moved = unroll_tasks(bowl, params, batches, rule, state)
    (exact,) = torch.autograd.grad(scored_losses(bowl, moved, query).mean(), rule.theta)
    assert torch.allclose(grad, exact, rtol=1e-12)


def test_pairs_are_antithetic_and_share_all_else():
    tree = {"x": torch.arange(3.0)[:, None], "y": (torch.arange(3),)}
    assert repeat_for_pairs(tree)["x"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    config = MetaConfig(unroll_length=K, tasks=6, estimator="pes")
    step = EvolutionStep(Drift(), config, generator())
    drawn = step._draw(torch.zeros(3))
    assert torch.equal(drawn[::2], -drawn[1::2]) and drawn.abs().min() > 0


def learn(steps=40, **how):
    rule = MetaOptimizer()
    config = MetaConfig(
        meta_steps=steps, unroll_length=5, max_horizon=10, tasks=16, estimator="pes", sigma=0.05
    )
    return rule, meta_train(rule, Quadratics(), config, **how)


def test_it_lowers_the_meta_loss():
    draw = draw_tasks(Quadratics().held_out(), 64, 10, generator())

    def score(rule):
        run = unroll_tasks(draw.loss_fn, draw.params, draw.batches, rule, differentiable=False)
        return scored_losses(draw.loss_fn, run, draw.query).mean().item()

    assert score(learn(100)[0]) < 0.8 * score(MetaOptimizer())


def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", -1.0)
    whole, _ = learn()

    def stop(history):
        if len(history.records) == 23:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(checkpoint=tmp_path / "rule.pt", on_step=stop)
    again, _ = learn(checkpoint=tmp_path / "rule.pt", resume=True)
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_frozen_parts_of_a_rule_are_neither_perturbed_nor_moved():
    rule = MetaOptimizer()
    rule.net[0].requires_grad_(False)
    before = [p.clone() for p in rule.parameters()]
    config = MetaConfig(meta_steps=2, unroll_length=2, max_horizon=2, tasks=4, estimator="pes")
    meta_train(rule, Quadratics(), config)
    same = [torch.equal(a, b) for a, b in zip(before, rule.parameters(), strict=True)]
    assert same == [True, True, False, False]


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="estimator is one of .* but got 'es'"):
        MetaConfig(estimator="es")
    with pytest.raises(ValueError, match="in pairs: an even number, but got 5"):
        MetaConfig(estimator="pes", tasks=5)
    with pytest.raises(ValueError, match="sigma is a finite number above 0, but got 0"):
        MetaConfig(sigma=0)
