"""The loss of a plain net, without the machinery that any other model needs; and of T nets at once.

A plain net is an ``nn.Linear``, or an ``nn.Sequential`` of them and activations, under cross
entropy or mean squared error. Letters: T tasks, B rows, D inputs, C outputs. Source: ``torch.nn``;
T linear layers are one ``torch.baddbmm``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, mse_loss
from torch.nn.modules.module import _has_any_global_hook

from nested.fast.plain_gradient import ACTIVATIONS, IGNORED, Net, loss_and_gradient
from nested.levels.forward import Batch, FunctionalLoss, LossFn, Params
from nested.support.autograd import in_transform
from nested.unroll.over_tasks import over_tasks

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CHANGES = ("forward", *HOOKS)  # what an instance may have, to do other things than its class
OTHERS = (nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.LeakyReLU)  # autograd takes their gradient
Layers = list[tuple[nn.Module, str]]  # with the name of its weights


def plain_loss(loss_fn: LossFn, params: Params, has_tasks: bool = False) -> PlainLoss | None:
    """Return a faster form of ``loss_fn`` at ``params`` {name: (...)}, or None for no plain net.

    Its values are the same: the loss, (), or with ``has_tasks`` those of T tasks, (T,), from params
    {name: (T, ...)} and a batch (T, ...).
    """
    layers = _plain_layers(loss_fn, params)
    if layers is None:
        return None
    return PlainLoss(loss_fn, layers, over_tasks(loss_fn) if has_tasks else None)


class PlainLoss:
    """The loss of a plain net, (), or with ``by_vmap`` those of T, (T,). A batch that is not rows
    of numbers, with a label or numbers for each row, goes to ``loss_fn`` or ``by_vmap``."""

    def __init__(self, loss_fn: LossFn, layers: Layers, by_vmap: LossFn | None = None) -> None:
        self.criterion, self.layers = loss_fn.criterion, layers
        self.otherwise, self.leading = by_vmap or loss_fn, int(by_vmap is not None)
        kinds = [type(layer) for layer, _ in layers]
        inner, outer = kinds[1::2], kinds[::2]
        in_turn = set(outer) == {nn.Linear} and set(inner) <= ACTIVATIONS.keys()
        in_turn &= len(outer) == len(inner) + 1
        self.net = Net([ACTIVATIONS[kind] for kind in inner], self.criterion) if in_turn else None
        self.width = [layer.out_features for layer, _ in layers if type(layer) is nn.Linear][-1]

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        if not self._takes(batch):
            return self.otherwise(params, batch)
        inputs, targets = batch  # ([T,] B, D) and ([T,] B) or ([T,] B, C)
        for layer, name in self.layers:
            if type(layer) is not nn.Linear:
                inputs = layer(inputs)
            elif not self.leading:
                inputs = linear(inputs, params[f"{name}weight"], params.get(f"{name}bias"))
            else:
                weight, bias = params[f"{name}weight"].mT, params.get(f"{name}bias")
                product = torch.bmm(inputs, weight) if bias is None else None
                inputs = product if bias is None else torch.baddbmm(bias[:, None], inputs, weight)
        if not self.leading:
            return self.criterion(inputs, targets)
        if self.criterion is mse_loss:
            return mse_loss(inputs, targets, reduction="none").mean((1, 2))
        each = cross_entropy(inputs.flatten(0, 1), targets.flatten(), reduction="none")
        return each.view_as(targets).sum(1) / (targets != IGNORED).sum(1)  # (T * B,) -> (T,)

    def with_gradient(self, params: Params, batch: Batch) -> tuple[Tensor, Params] | None:
        """Return the loss and its gradient {name: (...)}, both in the graph of ``params``.

        Returns None where autograd has to find them. That is so for other activations, for batches
        with a gradient or without rows, in mixed precision, and inside ``torch.func`` or
        forward-mode differentiation.
        """
        if self.net is None or not self._takes(batch):
            return None
        inputs, targets = batch
        learned = inputs.requires_grad or targets.requires_grad
        if learned or not inputs.numel() or torch.is_autocast_enabled(inputs.device.type):
            return None
        if in_transform():
            return None
        if torch.is_grad_enabled():  # the loss has a graph, also of weights outside every graph
            params = {
                n: p if p.requires_grad else p.detach().requires_grad_() for n, p in params.items()
            }
        names = [f"{name}{kind}" for _, name in self.layers[::2] for kind in ("weight", "bias")]
        weights = [params.get(name) for name in names]
        loss, grads = loss_and_gradient(self.net, weights, inputs, targets)
        grads = dict(zip(names, grads))
        return loss, {name: grads[name] for name in params}

    def _takes(self, batch: Batch) -> bool:
        if not (isinstance(batch, (tuple, list)) and all(isinstance(x, Tensor) for x in batch)):
            return False
        if len(batch) != 2 or batch[0].dim() != 2 + self.leading:
            return False
        inputs, targets = batch
        if self.criterion is cross_entropy:
            return targets.dtype == torch.int64 and targets.shape == inputs.shape[:-1]
        return targets.dtype == inputs.dtype and targets.shape == (*inputs.shape[:-1], self.width)


def _plain_layers(loss_fn: LossFn, params: Params) -> Layers | None:
    """The layers of a plain net, or None for anything else: other modules, subclasses, hooks,
    frozen or other weights, another criterion."""
    if type(loss_fn) is not FunctionalLoss or loss_fn.criterion not in (cross_entropy, mse_loss):
        return None
    model = loss_fn.model
    if type(model) not in (nn.Linear, nn.Sequential) or loss_fn.frozen:
        return None
    # not named_children, which leaves out a layer that is there twice
    inner = {"": model} if type(model) is nn.Linear else model._modules
    known = (nn.Linear, *ACTIVATIONS, *OTHERS)
    if any(type(layer) not in known for layer in inner.values()) or _has_any_global_hook():
        return None
    if any(any(map(vars(module).get, CHANGES)) for module in model.modules()):
        return None
    if getattr(next(iter(inner.values()), None), "inplace", False):  # it would write to the batch
        return None
    layers = [(layer, f"{name}." if name else "") for name, layer in inner.items()]
    names = [f"{name}{kind}" for layer, name in layers for kind, p in layer.named_parameters()]
    distinct = [name for name, _ in model.named_parameters()]  # no layer twice, and nothing else
    return layers if names == distinct and set(names) == set(params) else None
