"""Lends a module other weights for one forward pass, and leaves no trace in the module.

``torch.func.functional_call`` swaps the tensors. This file adds what it leaves to its caller:
layers that stand under two names, attributes that a forward pass sets, and writes in place.
Source: the notes on ``functional_call`` in PyTorch's documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map_only

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def call_with(module: nn.Module, tensors: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call ``module`` with ``tensors`` in place of its parameters and buffers of these names.

    ``tensors`` is {name: (...)}, named as ``named_parameters`` and ``named_buffers`` name them. A
    tensor that stands under several names is replaced everywhere, and is the module's again
    afterwards.
    """
    lent = everywhere(tensors, places(module))
    return functional_call(module, lent, args, kwargs, tie_weights=False)


def places(module: nn.Module) -> dict[str, list[str]]:
    """List the names of each parameter and buffer, {first name: [first name, other name, ...]}.

    A layer that stands under two names counts once. ``functional_call`` swaps such a layer twice
    if it is given both names, and then does not swap it back.
    """
    first_names: dict[int, str] = {}
    names_of: dict[str, list[str]] = {}
    for prefix, each in module.named_modules():
        for attribute, tensor in chain(each._parameters.items(), each._buffers.items()):
            if tensor is not None:
                name = f"{prefix}.{attribute}" if prefix else attribute
                names_of.setdefault(first_names.setdefault(id(tensor), name), []).append(name)
    return names_of


def everywhere(tensors: dict[str, Tensor], names_of: dict[str, list[str]]) -> dict[str, Tensor]:
    """Return ``tensors`` {name: (...)} under all the names that ``places`` lists for each."""
    return {
        name: tensor for first, tensor in tensors.items() for name in names_of.get(first, [first])
    }


@contextmanager
def unchanged(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore, on leaving, all attributes of ``modules``: those that ``model.modules()`` gives.

    The weight that the hook of an old ``weight_norm`` sets is such an attribute.
    """
    before = [(each, vars(each).copy()) for each in modules]
    try:
        yield
    finally:
        for each, attributes in before:
            now = vars(each)
            if len(now) != len(attributes) or any(map(is_not, now.values(), attributes.values())):
                now.clear()
                now.update(attributes)


def make_embeddings_dense(modules: Iterable[nn.Module]) -> None:
    """Set ``sparse=False`` in all embeddings: a sparse gradient has no derivative of its own.

    Call it inside ``unchanged``, which sets it back.
    """
    for module in modules:
        if isinstance(module, EMBEDDINGS) and module.sparse:
            module.sparse = False


class Lender:
    """Runs ``model`` with lent weights, and refuses a model that writes to its weights or buffers.

    A model that writes to its inputs gets copies of them, so that the caller's batches stay as
    they are. The first forward pass runs on copies of everything, to see what the model writes to.
    """

    checks = True  # a backend that traces the model has checked one step before, and needs no other

    def __init__(self, model: nn.Module) -> None:
        self.model, self.names_of = model, places(model)
        self.modules = dict(model.named_modules())
        self.embeddings = {n: m for n, m in self.modules.items() if isinstance(m, EMBEDDINGS)}
        self.norms = {n: m for n, m in self.modules.items() if hasattr(m, "track_running_stats")}
        self.is_first, self.copies_inputs = True, False

    def __call__(self, weights: dict[str, Tensor], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return what the model returns at ``weights`` {name: (...)}, named as ``places`` does.

        Raises ``ValueError`` for a model that writes to its weights or buffers: a pure function
        has nowhere to keep what was written.
        """
        buffers = dict(self.model.named_buffers())
        if not self.checks:
            inputs = copied((args, kwargs)) if self.copies_inputs else (args, kwargs)
            return self.run({**weights, **buffers}, inputs)[0]
        _refuse_modes(self.norms)
        tensors = {**(copied(weights) if self.is_first else weights), **copied(buffers)}
        inputs = copied((args, kwargs)) if self.is_first or self.copies_inputs else (args, kwargs)
        leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        versions_before = list(map(version, tensors.values())), list(map(version, leaves))
        with unchanged(self.modules.values()):
            make_embeddings_dense(self.embeddings.values())
            outputs, lent = self.run(tensors, inputs)
        written = [n for n, v in zip(tensors, versions_before[0]) if version(tensors[n]) != v]
        written += [name for name in buffers if lent[name] is not tensors[name]]
        if written:
            kind = "buffers" if written[0] in buffers else "weights"
            raise ValueError(_writes(f"{type(self.model).__name__} writes to its {kind} {written}"))
        wrote_to_inputs = list(map(version, leaves)) != versions_before[1]
        if wrote_to_inputs and not (self.is_first or self.copies_inputs):
            raise ValueError("the model wrote to a batch: let it write to a copy, x.clone()")
        self.is_first, self.copies_inputs = False, self.copies_inputs or wrote_to_inputs
        return outputs

    def run(self, tensors: dict[str, Tensor], inputs: tuple) -> tuple[Any, dict[str, Tensor]]:
        """Run the model on ``inputs`` (args, kwargs) with ``tensors`` {name: (...)}, unchecked.
        Returns its outputs, and the tensors under all their names."""
        lent = everywhere(tensors, self.names_of)
        self._detach_padding(lent)
        return functional_call(self.model, lent, *inputs, tie_weights=False), lent

    def _detach_padding(self, lent: dict[str, Tensor]) -> None:
        """Give padding rows no gradient: ``vmap`` does so for the first task alone."""
        for name, module in self.embeddings.items():
            if module.padding_idx is not None:
                weight_name = f"{name}.weight" if name else "weight"
                weight = lent.get(weight_name, module.weight)
                rows = torch.arange(len(weight), device=weight.device)[:, None]  # (V, 1)
                lent[weight_name] = torch.where(rows == module.padding_idx, weight.detach(), weight)


def copied(tree: Any) -> Any:
    """Return the same nested structure with a copy of each tensor (...), in its graph."""
    return tree_map_only(Tensor, Tensor.clone, tree)


def version(x: Tensor) -> int:
    """Count how often ``x`` (...) was written to in place. Inference tensors give 0."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):  # the tensor inside does the counting
        x = torch._C._functorch.get_unwrapped(x)
    return 0 if x.is_inference() else x._version


def _refuse_modes(norms: dict[str, nn.Module]) -> None:
    """Raise ``ValueError`` where a forward pass would keep values in the model."""
    if parametrize._cache_enabled:
        raise ValueError(
            "inside torch.nn.utils.parametrize.cached() a model keeps the weights of its first"
            " forward pass: leave that context for an unroll"
        )
    for name, norm in norms.items():
        if norm.track_running_stats and norm.training:
            raise ValueError(
                _writes(f"{type(norm).__name__} {name!r} in train mode writes to its buffers")
            )


def _writes(subject: str) -> str:
    return (
        f"{subject} in the forward pass, and a pure loss has nowhere to keep what was written."
        " Call model.eval(), use a layer without running statistics (GroupNorm), or an Embedding"
        " without max_norm"
    )
