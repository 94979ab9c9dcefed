"""The same K inner steps by everyone: ours, by hand, torch.func, higher, TorchOpt.

Letters: K inner steps, B rows. All but TorchOpt (a constant rate: it has no other) are driven by
the same level 4, a ``MetaOptimizer`` of log-loss and log-step. A contender takes a ``Problem`` and
returns the mean of the K losses, plus that of a query batch at the last weights, with a graph to
level 4.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, linear

from nested import MetaOptimizer, UpdateRule, functional_loss, unroll, unroll_tasks
from nested.levels.context import context_vector
from nested.unroll.over_tasks import stack_tasks
from nested.unroll.registry import loss_over_tasks

SIZES = {"S": ([64, 32, 10], 32), "M": ([784, 256, 256, 10], 64)}  # widths, B
TASKS = 16
LR, MOMENTUM = 0.1, 0.5  # where the same rate is taken for ever


class Problem(NamedTuple):
    model: nn.Sequential
    loss_fn: Callable
    params: dict[str, Tensor]
    batches: list
    rule: UpdateRule
    query: tuple
    tasks: tuple  # params, batches and query again, T at once


def make_problem(workload: str, steps: int, dtype: torch.dtype = torch.float32) -> Problem:
    widths, rows = SIZES[workload]
    generator = Generator().manual_seed(0)
    layers = [part for i, o in zip(widths, widths[1:]) for part in (nn.Linear(i, o), nn.Tanh())]
    model = nn.Sequential(*layers[:-1]).to(dtype)
    params = {
        name: torch.randn(p.shape, generator=generator).to(dtype) / p.shape[-1] ** 0.5
        for name, p in model.named_parameters()
    }
    *batches, query = [
        (
            torch.randn(rows, widths[0], generator=generator).to(dtype),
            torch.randint(10, (rows,), generator=generator),
        )
        for _ in range(steps + 1)
    ]
    rule = MetaOptimizer(context=("log_loss", "log_step")).to(dtype)
    many = ()
    if workload == "S":
        many = tuple(stack_tasks([part] * TASKS) for part in (params, batches, query))
    return Problem(model, functional_loss(model, cross_entropy), params, batches, rule, query, many)


def level_4(rule: MetaOptimizer, loss: Tensor, step: int) -> tuple[Tensor, Tensor]:
    step = torch.tensor(float(step), dtype=loss.dtype)
    seen = {"loss": loss, "step": step, "params": None, "grads": None, "buffer": None}
    return rule.signals(context_vector(rule.context, **seen))


def ours(problem: Problem, backend: str) -> Tensor:
    loss_fn, params, batches, rule = problem[1:5]
    run = unroll(loss_fn, params, batches, rule, backend=backend)
    return run.losses.mean() + loss_fn(run.params, problem.query)


def ours_many(problem: Problem, backend: str) -> Tensor:
    params, batches, query = problem.tasks
    run = unroll_tasks(problem.loss_fn, params, batches, problem.rule, backend=backend)
    return run.losses.mean() + loss_over_tasks(problem.loss_fn, params)(run.params, query).mean()


def forward(weights: list[Tensor], inputs: Tensor) -> Tensor:
    for i in range(0, len(weights), 2):
        inputs = linear(inputs, weights[i], weights[i + 1])
        inputs = torch.tanh(inputs) if i < len(weights) - 2 else inputs
    return inputs


def first_order_sgd(problem: Problem) -> None:
    """The unit: training alone, with nothing to differentiate it by."""
    weights = [p.clone().requires_grad_() for p in problem.params.values()]
    buffers = [torch.zeros_like(w) for w in weights]
    for inputs, targets in problem.batches:
        loss = cross_entropy(forward(weights, inputs), targets)
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            torch._foreach_mul_(buffers, MOMENTUM)
            torch._foreach_add_(buffers, grads)
            torch._foreach_add_(weights, buffers, alpha=-LR)


def by_hand(problem: Problem) -> Tensor:
    weights = [p.clone().requires_grad_() for p in problem.params.values()]
    buffers, losses = [torch.zeros_like(w) for w in weights], []
    for k, (inputs, targets) in enumerate(problem.batches):
        loss = cross_entropy(forward(weights, inputs), targets)
        grads = torch.autograd.grad(loss, weights, create_graph=True)
        lr, momentum = level_4(problem.rule, loss, k)
        buffers = [momentum * v + g for v, g in zip(buffers, grads)]
        weights = [w - lr * v for w, v in zip(weights, buffers)]
        losses.append(loss)
    inputs, targets = problem.query
    return torch.stack(losses).mean() + cross_entropy(forward(weights, inputs), targets)


def by_torch_func(problem: Problem) -> Tensor:
    params, losses = problem.params, []
    buffers = {name: torch.zeros_like(p) for name, p in params.items()}
    step = torch.func.grad_and_value(problem.loss_fn)
    for k, batch in enumerate(problem.batches):
        grads, loss = step(params, batch)
        lr, momentum = level_4(problem.rule, loss, k)
        buffers = {n: momentum * v + grads[n] for n, v in buffers.items()}
        params = {n: w - lr * buffers[n] for n, w in params.items()}
        losses.append(loss)
    return torch.stack(losses).mean() + problem.loss_fn(params, problem.query)


def by_higher(problem: Problem) -> Tensor:
    import higher

    model, losses = problem.model, []
    model.load_state_dict(problem.params)
    sgd = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    with higher.innerloop_ctx(model, sgd) as (fmodel, inner):
        for k, (inputs, targets) in enumerate(problem.batches):
            loss = cross_entropy(fmodel(inputs), targets)
            lr, momentum = level_4(problem.rule, loss, k)
            inner.step(loss, override={"lr": [lr], "momentum": [momentum]})
            losses.append(loss)
        inputs, targets = problem.query
        return torch.stack(losses).mean() + cross_entropy(fmodel(inputs), targets)


def by_torchopt(problem: Problem) -> tuple[Tensor, list[Tensor]]:
    """TorchOpt's rates are floats, so it is differentiated by the initial weights instead."""
    import torchopt

    model = problem.model
    model.load_state_dict(problem.params)
    net, losses = _Rebuilt(model), []
    start = list(net.parameters())
    sgd = torchopt.MetaSGD(net, lr=LR, momentum=MOMENTUM)
    for inputs, targets in problem.batches:
        loss = cross_entropy(net(inputs), targets)
        sgd.step(loss)
        losses.append(loss)
    inputs, targets = problem.query
    return torch.stack(losses).mean() + cross_entropy(net(inputs), targets), start


class _Rebuilt(nn.Module):
    """The model with fresh parameters, for TorchOpt replaces them in place."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        parts = [
            nn.Linear(layer.in_features, layer.out_features) if type(layer) is nn.Linear else layer
            for layer in model
        ]
        self.net = nn.Sequential(*parts).to(model[0].weight.dtype)
        self.net.load_state_dict(model.state_dict())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


CONTENDERS: dict[str, Callable[[Problem], Tensor | None]] = {
    "SGD, first order": first_order_sgd,
    "higher": by_higher,
    "by hand": by_hand,
    "torch.func": by_torch_func,
    "TorchOpt, constant lr": by_torchopt,
    "eager": partial(ours, backend="eager"),
    "checkpoint": partial(ours, backend="checkpoint"),
    "compile": partial(ours, backend="compile"),
    "eager, 16 tasks": partial(ours_many, backend="eager"),
    "checkpoint, 16 tasks": partial(ours_many, backend="checkpoint"),
    "compile, 16 tasks": partial(ours_many, backend="compile"),
}
