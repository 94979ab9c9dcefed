"""Lends a module other weights for one forward pass, and leaves no trace in the module.

``torch.func.functional_call`` swaps the tensors. This file adds what it leaves to its caller:
layers that stand under two names, attributes that a forward pass sets, and writes in place.
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
    tensor that stands under several names is replaced everywhere, and afterwards is the module's
    own again. Raises what the module raises.
    """
    lent = everywhere(tensors, places(module))
    return functional_call(module, lent, args, kwargs, tie_weights=False)


@contextmanager
def unchanged(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore, on leaving, all attributes of ``modules``: those that ``model.modules()`` gives.

    The weight that the hook of an old ``weight_norm`` sets is such an attribute.
    """
    if torch.compiler.is_compiling():
        yield
        return
    before = [(each, vars(each).copy()) for each in modules]
    try:
        yield
    finally:
        for each, attributes in before:
            now = vars(each)
            if len(now) != len(attributes) or any(map(is_not, now.values(), attributes.values())):
                now.clear()
                now.update(attributes)


def places(module: nn.Module) -> dict[str, list[str]]:
    """List the names of each parameter and buffer, {first name: [first name, other name, ...]}.

    A layer that stands under two names counts once. ``functional_call`` swaps such a layer twice
    if it is given both names, and then does not swap it back.
    """
    first_names: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for prefix, each in module.named_modules():
        for attribute, tensor in chain(each._parameters.items(), each._buffers.items()):
            if tensor is not None:
                name = f"{prefix}.{attribute}" if prefix else attribute
                found.setdefault(first_names.setdefault(id(tensor), name), []).append(name)
    return found


def everywhere(tensors: dict[str, Tensor], names_of: dict[str, list[str]]) -> dict[str, Tensor]:
    """Return ``tensors`` {name: (...)} under all the names that ``places`` lists for each."""
    return {
        name: tensor for first, tensor in tensors.items() for name in names_of.get(first, [first])
    }


def versions(tree: Any) -> list[int]:
    """Count how often each tensor (...) in a nested structure was written to in place.

    Inference tensors keep no count, and give 0.
    """
    return [_version(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


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

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names_of = places(model)
        self.modules = dict(model.named_modules())
        self.embeddings = {n: m for n, m in self.modules.items() if isinstance(m, EMBEDDINGS)}
        self.norms = {n: m for n, m in self.modules.items() if hasattr(m, "track_running_stats")}
        self.is_first = True
        self.copies_inputs = False

    def __call__(self, weights: dict[str, Tensor], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return what the model returns at ``weights`` {name: (...)}, named as ``places`` does.

        Call it inside ``unchanged(self.modules.values())``. Raises ``ValueError`` for a model that
        writes to its weights or buffers: a pure function has nowhere to keep what was written.
        """
        inputs, buffers = (args, kwargs), dict(self.model.named_buffers())
        if torch.compiler.is_compiling():  # an eager forward pass looked at all of this before
            inputs = copied(inputs) if self.copies_inputs else inputs
            lent = everywhere({**weights, **buffers}, self.names_of)
            self._detach_padding(lent)
            return functional_call(self.model, lent, *inputs, tie_weights=False)
        self._refuse_what_keeps_values()
        weights = copied(weights) if self.is_first else weights
        inputs = copied(inputs) if self.is_first or self.copies_inputs else inputs
        own = {**weights, **copied(buffers)} if buffers else weights
        leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        versions_before = list(map(_version, own.values())), list(map(_version, leaves))
        lent = everywhere(own, self.names_of)
        make_embeddings_dense(self.embeddings.values())
        self._detach_padding(lent)
        outputs = functional_call(self.model, lent, *inputs, tie_weights=False)
        written = [n for n, v in zip(own, versions_before[0]) if _version(own[n]) != v]
        written += [name for name in buffers if lent[name] is not own[name]]
        if written:
            kind = "buffers" if written[0] in buffers else "weights"
            raise ValueError(_writes(f"{type(self.model).__name__} writes to its {kind} {written}"))
        if list(map(_version, leaves)) != versions_before[1] and not self.copies_inputs:
            if not self.is_first:
                raise ValueError("the model wrote to a batch: let it write to a copy, x.clone()")
            self.copies_inputs = True
        self.is_first = False
        return outputs

    def _refuse_what_keeps_values(self) -> None:
        if parametrize._cache_enabled:
            raise ValueError(
                "inside torch.nn.utils.parametrize.cached() a model keeps the weights of its first"
                " forward pass: leave that context for an unroll"
            )
        for name, module in self.norms.items():
            if module.track_running_stats and module.training:
                who = f"{type(module).__name__} {name!r} in train mode"
                raise ValueError(_writes(f"{who} writes to its buffers"))

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


def _version(x: Tensor) -> int:
    while torch._C._functorch.is_functorch_wrapped_tensor(x):  # the tensor inside does the counting
        x = torch._C._functorch.get_unwrapped(x)
    return 0 if x.is_inference() else x._version


def _writes(who: str) -> str:
    return (
        f"{who} in the forward pass, and a pure loss has nowhere to keep what was written:"
        " call model.eval(), use a layer without running statistics (GroupNorm), or an Embedding"
        " without max_norm"
    )
