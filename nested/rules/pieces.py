"""The tensors that a rule sees of a parameter: a vector, a matrix or the matrices of a stack.

Letters: n numbers, R x C of a matrix, N matrices of a stack.
Source: the distributed tensors of ``torch.distributed.tensor``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.optim.sharded import cut_as, is_sharded, whole

BLOCK = 2**16  # numbers that fit a cache
MATRICES = (True, False, "stacks")  # what a group's tensors (R, ...) are: see ``split``


def gathered(x: Tensor) -> Tensor:
    """Return ``x`` (...) without its graph and contiguous; it shares memory with ``x`` if it can.
    A distributed tensor is gathered."""
    return whole(x.detach()).contiguous()


def put_back(p: Tensor, value: Tensor) -> None:
    """Write ``value`` (...), a changed result of ``gathered``, to ``p``."""
    if is_sharded(p) or value.data_ptr() != p.data_ptr():
        p.copy_(cut_as(value, p))


def averaged(loss: Tensor) -> Tensor:
    """Average a ``loss`` () over the processes that train together, if there are any.

    All must use the same number, or their weights drift apart.
    """
    loss = whole(loss)
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return loss
    total = loss.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def split(x: Tensor, matrices: bool | str) -> list[Tensor]:
    """Return the views of a contiguous ``x`` that a rule sees.

    ``matrices=True`` gives the tensor itself: (R, ...) is a matrix of R rows. ``False`` gives a
    vector (n,). ``"stacks"`` gives each matrix (R, C) of a stack (..., R, C).
    """
    if matrices is False:
        return [x.view(-1)]
    if matrices == "stacks" and x.dim() > 2:
        return list(x.view(-1, *x.shape[-2:]).unbind(0))
    return [x]


def total_of(x: Tensor) -> Tensor:
    """Sum a tensor (...) to a plain tensor (), also if it is distributed."""
    return whole(torch.sum(x))


def inner_product(grad: Tensor, end: Tensor, start: Tensor) -> Tensor:
    """Compute ``<grad, end - start>`` () of three tensors (...), in blocks, to save memory."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    if is_sharded(end) or end.is_meta:
        return total_of((end - start).to(wide) * grad)
    blocks = zip(*(x.reshape(-1).split(BLOCK) for x in (grad, end, start)))
    return torch.stack([g.to(wide).dot((e - s).to(wide)) for g, e, s in blocks]).sum()
