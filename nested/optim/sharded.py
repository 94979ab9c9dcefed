"""Gather tensors that are sharded over processes, such as FSDP2's weights, and shard them again.

An optimizer that needs whole matrices gathers them, computes, and keeps its part of the result.
Source: ``torch.distributed.tensor``, whose tensors are recognised by their ``full_tensor``.
"""

from __future__ import annotations

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether ``tensor`` (...) is a ``DTensor``, of which each process has a part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Gather ``tensor`` (...) from all processes. One that is not sharded is returned as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def replicated(tensor: Tensor) -> Tensor:
    """Give every process all of ``tensor`` (...), so that it combines with tensors sharded in any
    way. One that is not a ``DTensor`` is returned as it is."""
    if not is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import Replicate

    return tensor.redistribute(placements=[Replicate()] * tensor.device_mesh.ndim)


def is_cut_inside(tensor: Tensor) -> bool:
    """Return whether ``tensor`` (...) is sharded along another dimension than its first."""
    places = tensor.placements if is_sharded(tensor) else ()
    return any(place.is_shard() and place.dim != 0 for place in places)


def cut_as(full: Tensor, like: Tensor) -> Tensor:
    """Shard ``full`` (...), which every process has, as ``like`` (...) is. Differentiable."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    everywhere = DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=like.placements)
