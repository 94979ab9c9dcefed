"""Cut a long run into windows: keep the values, drop the graph.

A level that learns through K steps pays for K graphs. Between two windows its weights and state
become constants, so that memory does not grow with the length of the run.
Source: truncated backpropagation through time, Williams and Peng 1990.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only


def detached(tree: Any) -> Any:
    """Detach every tensor (...) of a nested structure from its graph; values are shared."""
    return tree_map_only(Tensor, Tensor.detach, tree)
