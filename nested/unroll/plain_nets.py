"""The loss of a plain net, without the machinery that any other model needs; and of T nets at once.

A plain net is an ``nn.Linear``, or an ``nn.Sequential`` of them and activations, under cross
entropy or mean squared error. Letters: T tasks, B rows, D inputs, C outputs. Source: ``torch.nn``;
T linear layers are one ``torch.baddbmm``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, mse_loss

from nested.levels.forward import Batch, LossFn, Params

ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.LeakyReLU)
Layers = list[tuple[Callable, str]]  # what runs, and the name of its weights


def faster(loss_fn: LossFn, params: Params) -> LossFn:
    """The same loss, (), of params {name: (...)}, without ``functional_call`` if ``loss_fn`` is
    that of a plain net with just these weights; else ``loss_fn`` itself. Raises nothing."""
    layers = _plain_layers(loss_fn, params)
    if layers is None:
        return loss_fn

    def loss(params: Params, batch: Batch) -> Tensor:
        inputs, targets = batch
        for layer, name in layers:
            if type(layer) is nn.Linear:
                inputs = linear(inputs, params[f"{name}weight"], params.get(f"{name}bias"))
            else:
                inputs = layer(inputs)
        return loss_fn.criterion(inputs, targets)

    return loss


def of_tasks(loss_fn: LossFn, params: Params) -> LossFn:
    """The losses of T tasks, (T,), from params {name: (T, ...)} and a batch (T, ...): by batched
    matrix products where ``loss_fn``, that of one task, is a plain net's, else by ``torch.vmap``.
    Raises nothing; the losses raise what PyTorch does."""
    layers = _plain_layers(loss_fn, params)
    by_vmap = torch.vmap(loss_fn, randomness="different")
    if layers is None:
        return by_vmap

    def losses(params: Params, batch: Batch) -> Tensor:
        inputs, targets = batch  # (T, B, D) and (T, B) or (T, B, C)
        classes = loss_fn.criterion is cross_entropy
        if inputs.dim() != 3 or targets.dim() != (2 if classes else 3):
            return by_vmap(params, batch)
        for layer, name in layers:
            if type(layer) is nn.Linear:
                weight, bias = params[f"{name}weight"].mT, params.get(f"{name}bias")
                product = torch.bmm(inputs, weight) if bias is None else None
                inputs = product if bias is None else torch.baddbmm(bias[:, None], inputs, weight)
            else:
                inputs = layer(inputs)
        if classes:  # (T, B, C) -> (T * B, C)
            each = cross_entropy(inputs.flatten(0, 1), targets.flatten(), reduction="none")
            return each.view_as(targets).mean(1)
        return mse_loss(inputs, targets, reduction="none").mean((1, 2))

    return losses


def _plain_layers(loss_fn: LossFn, params: Params) -> Layers | None:
    """The layers of a plain net, or None for anything else: other modules, subclasses, hooks,
    frozen or other weights, another criterion."""
    model = getattr(loss_fn, "model", None)
    if getattr(loss_fn, "criterion", None) not in (cross_entropy, mse_loss):
        return None
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if set(names) != set(params) or len(names) != len(params) or loss_fn.frozen:
        return None
    inner = [("", model)] if type(model) is nn.Linear else list(model.named_children())
    plain = type(model) in (nn.Linear, nn.Sequential)
    plain &= all(type(module) in (nn.Linear, *ACTIVATIONS) for _, module in inner)
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    if not plain or any(hooks):
        return None
    return [(module, f"{name}." if name else "") for name, module in inner]
