"""Sort the weights of a model into matrices, stacks of matrices, and the rest.

Source: Jordan et al. 2024 (Muon): matrices of hidden layers are orthogonalised, while embeddings,
heads and vectors take AdamW.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONVOLUTIONS += (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NAMES = {True: "matrices", "stacks": "stacks of matrices", False: "embeddings, heads and vectors"}


def matrix_groups(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    """Sort the parameters of ``model`` into groups for ``M3``, by the group key ``"matrices"``.

    True: each weight (R, ...) is one matrix of R rows. These belong to linear and convolutional
    layers. ``"stacks"``: each weight (..., R, C) is a stack of matrices. These are other parameters
    of three dimensions or more. False: the rest, namely embeddings, heads, depthwise convolutions,
    scalars, vectors, and matrices with a single row or column. A parameter with "embed" in its
    name, or a name that begins with "pos", counts as an embedding.

    A head is a linear layer that shares its weight with an embedding. The last linear layer with as
    many outputs as an embedding has entries is a head too, and so is a linear last layer.
    ``settings`` go into each group. Groups without weights are left out. Raises ``TypeError`` if
    ``model`` is no module.

    >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    >>> [(g["name"], len(g["params"])) for g in matrix_groups(net)]
    [('matrices', 1), ('embeddings, heads and vectors', 4)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"matrix_groups sorts the parameters of a module, but got {model!r}")
    apart = _embeddings(model) | _heads(model)
    members: dict[bool | str, list[Tensor]] = {kind: [] for kind in NAMES}
    kinds: dict[Tensor, bool | str] = {}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            kind = False if p in apart else _kind(module, name, p)
            if kinds.get(p) is not False:  # a shared weight is no matrix if one use says so
                kinds[p] = kind
    for p in model.parameters():
        members[kinds[p]].append(p)
    return [
        {**settings, "params": params, "matrices": kind, "name": NAMES[kind]}
        for kind, params in members.items()
        if params
    ]


def _kind(module: nn.Module, name: str, p: Tensor) -> bool | str:
    """Return the kind of a parameter (...) of ``module``, a key of ``NAMES``."""
    if p.dim() < 2:
        return False
    if _is_convolution(module):
        return getattr(module, "groups", None) == 1
    if min(p.shape[-2:]) == 1:
        return False
    return True if p.dim() == 2 else "stacks"


def _is_convolution(module: nn.Module) -> bool:
    """A class of the user with "conv" in its name counts too, as a depthwise convolution."""
    return isinstance(module, CONVOLUTIONS) or "conv" in type(module).__name__.lower()


def _embeddings(model: nn.Module) -> set[Tensor]:
    """List the weights of embeddings, by the class of their layer or by their name."""
    weights = {m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    for module in model.modules():
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            for name, p in module.named_parameters(recurse=False):
                if "embed" in name.lower() or name.lower().startswith("pos"):
                    weights.add(p)
    return weights


def _heads(model: nn.Module) -> set[Tensor]:
    """List the weights of the layers that compute the output of a model."""
    embeddings = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    entries = {embedding.num_embeddings for embedding in embeddings}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    to_entries = [m.weight for m in linear if m.out_features in entries]
    layers = [m for m in model.modules() if [*m.parameters(recurse=False)]]
    last = [m.weight for m in layers[-1:] if isinstance(m, nn.Linear)]
    return {*to_entries[-1:], *last}
