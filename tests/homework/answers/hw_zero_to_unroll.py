"""A right answer to hw_zero: the plain way."""

import torch
from torch import nn

from nested import Step, UpdateRule


def gradient(loss_fn, params, batch):
    loss = loss_fn(params, batch)
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    return loss, dict(zip(params, grads))


def step(params, buffer, grads, lr, momentum):
    buffer = {name: momentum * buffer[name] + g for name, g in grads.items()}
    params = {name: w - lr * buffer[name] for name, w in params.items()}
    return params, buffer


def unroll(loss_fn, params, batches, rule):
    state, losses = rule.init(params), []
    for batch in batches:
        loss, grads = gradient(loss_fn, params, batch)
        params, state, signals = rule(params, grads, state, loss)
        losses.append(loss)
    return params, torch.stack(losses)


class MetaOptimizer(UpdateRule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 2))

    def init(self, params):
        return {name: torch.zeros_like(w) for name, w in params.items()}

    def forward(self, params, grads, state, loss):
        seen = torch.log(loss.abs().clamp(1e-12, 1e12)) / 5
        share = torch.sigmoid(self.net(seen.reshape(1)))
        lr, momentum = share[0], 0.9 * share[1]
        params, buffer = step(params, state, grads, lr, momentum)
        return Step(params, buffer, {"lr": lr, "momentum": momentum})


def meta_train(rule, tasks, lr):
    optimizer = torch.optim.Adam(rule.parameters(), lr=lr)
    meta_losses = []
    for loss_fn, params, batches in tasks:
        _, losses = unroll(loss_fn, params, batches, rule)
        meta_loss = losses.mean()
        optimizer.zero_grad()
        meta_loss.backward()
        optimizer.step()
        meta_losses.append(meta_loss.item())
    return meta_losses
