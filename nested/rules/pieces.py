"""The tensors that a rule sees of a parameter: whole, and as a vector, a matrix or many matrices.

Letters: n numbers, R x C of a matrix, N matrices of a stack.
Source: the distributed tensors of ``torch.distributed.tensor``.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**16  # numbers, which stay in a cache
MATRICES = (True, False, "stack")  # how a group's tensors (R, ...) count: see ``split``


def gathered(x: Tensor) -> Tensor:
    """Return ``x`` (...) without its graph, whole and contiguous: itself, where it is so already.
    The shards of a distributed tensor are brought together."""
    x = x.detach()
    return x.full_tensor() if hasattr(x, "full_tensor") else x.contiguous()


def put_back(p: Tensor, whole: Tensor) -> None:
    """Write ``whole`` (...), which ``gathered`` gave and a rule moved, to ``p``."""
    if hasattr(p, "full_tensor"):
        from torch.distributed.tensor import DTensor, Replicate

        mesh = p.device_mesh
        same = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
        p.copy_(same.redistribute(placements=p.placements))
    elif whole.data_ptr() != p.data_ptr():
        p.copy_(whole)


def averaged(loss: Tensor) -> Tensor:
    """Return the mean of a ``loss`` () over the processes that train together, if there are many:
    all of them must go by the same number, or their weights drift apart."""
    if hasattr(loss, "full_tensor"):
        loss = loss.full_tensor()
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return loss
    total = loss.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def split(x: Tensor, matrices: bool | str) -> list[Tensor]:
    """Return views of a contiguous ``x``, as a rule is to see it: with ``True`` the tensor itself,
    where (R, ...) is a matrix of R rows; with ``False`` a vector (n,); with ``"stack"`` each matrix
    (R, C) of a stack (..., R, C)."""
    if matrices is False:
        return [x.view(-1)]
    if matrices == "stack" and x.dim() > 2:
        return list(x.view(-1, *x.shape[-2:]).unbind(0))
    return [x]


def total_of(x: Tensor) -> Tensor:
    """Return the sum () of a tensor (...), plain even where that is a distributed one."""
    total = torch.sum(x)
    return total.full_tensor() if hasattr(total, "full_tensor") else total


def inner_product(grad: Tensor, end: Tensor, start: Tensor) -> Tensor:
    """Return ``<grad, end - start>`` () of three tensors (...), without one of their size."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    if hasattr(end, "full_tensor") or end.is_meta:
        return total_of((end - start).to(wide) * grad)
    blocks = zip(*(x.reshape(-1).split(BLOCK) for x in (grad, end, start)))
    return torch.stack([g.to(wide).dot((e - s).to(wide)) for g, e, s in blocks]).sum()
