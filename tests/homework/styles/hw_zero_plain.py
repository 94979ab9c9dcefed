"""A right answer to hw_zero as a beginner may write it, and not by who wrote the reference."""

import torch

from nested import Step, UpdateRule


def gradient(loss_fn, params, batch):
    names = list(params.keys())
    loss = loss_fn(params, batch)
    g = torch.autograd.grad(loss, [params[n] for n in names], create_graph=True)
    return loss, {n: gi for n, gi in zip(names, g)}


def step(params, buffer, grads, lr, momentum):
    new_buffer = {}
    new_params = {}
    for name in params:
        new_buffer[name] = momentum * buffer[name] + grads[name]
        new_params[name] = params[name] - lr * new_buffer[name]
    return new_params, new_buffer


def unroll(loss_fn, params, batches, rule):
    state = rule.init(params)
    losses = []
    for batch in batches:
        loss, grads = gradient(loss_fn, params, batch)
        params, state, _ = rule(params, grads, state, loss)
        losses.append(loss)
    return params, torch.stack(losses)


class MetaOptimizer(UpdateRule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(1, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
        )

    def init(self, params):
        return {n: torch.zeros_like(p) for n, p in params.items()}

    def forward(self, params, grads, state, loss):
        x = torch.log(torch.abs(loss) + 1e-6).clamp(-10, 10).reshape(1)
        out = torch.sigmoid(self.net(x))
        lr = out[0] * 2
        momentum = out[1] * 0.99
        new_params, new_state = step(params, state, grads, lr, momentum)
        return Step(new_params, new_state, {"lr": lr, "momentum": momentum})


def meta_train(rule, tasks, lr):
    opt = torch.optim.Adam(rule.parameters(), lr=lr)
    history = []
    for loss_fn, params, batches in tasks:
        opt.zero_grad()
        _, losses = unroll(loss_fn, params, batches, rule)
        meta_loss = losses.mean()
        meta_loss.backward()
        opt.step()
        history.append(meta_loss.item())
    return history
