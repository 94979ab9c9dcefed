"""A mode that refuses float64, as the devices of Apple's GPUs do."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoFloat64(TorchDispatchMode):
    """Inside, no operation may take or return a float64 tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, outputs)):
            is_wide = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64
            assert not is_wide and leaf is not torch.float64, f"{func} with float64"
        return outputs
