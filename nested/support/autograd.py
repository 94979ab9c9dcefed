"""Where autograd needs care: transforms around a loop, inference mode, attention kernels.

Source: the documentation of ``torch.func``, ``torch.inference_mode`` and ``torch.nn.attention``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is around the caller.

    In there ``torch.autograd.grad`` does not do, and values must not decide what is run.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@contextmanager
def with_autograd(module: nn.Module) -> Iterator[None]:
    """Switch autograd on inside, also under ``torch.no_grad`` and ``torch.inference_mode``.

    Attention takes the kernel that has a second derivative; the faster ones have none.
    Raises ``ValueError`` for a ``module`` whose parameters were made in inference mode.
    """
    if any(p.is_inference() for p in module.parameters()):
        raise ValueError(
            f"{type(module).__name__} was made in inference mode, so its parameters have no"
            " gradients: make it outside torch.inference_mode()"
        )
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def outside_inference(tree: Any) -> Any:
    """Return the same nested structure, with usual copies of inference tensors (...).

    Call it outside inference mode: autograd cannot save inference tensors.
    """
    return tree_map_only(Tensor, lambda x: x.clone() if x.is_inference() else x, tree)


def has_inference_tensors(tree: Any) -> bool:
    """Whether one of the tensors (...) in a nested structure was made in inference mode."""
    return any(isinstance(x, Tensor) and x.is_inference() for x in tree_leaves(tree))
