"""A function of tensors recorded as a CUDA graph: launched as one, however many operations it has.

Source: ``torch.cuda.CUDAGraph``; its rules for what may be recorded (nothing that waits for the
device, no tensor made from numbers of the host) are those of PyTorch's notes on CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

WARM_UPS = 3  # runs before the recording, in which libraries and optimizers set themselves up


class Recorded:
    """``function`` of ``inputs``, nested tensors on a GPU, recorded at once and replayed by a call.

    A call copies its inputs to where those of the recording were, and hands back copies of what the
    recording left. What ``function`` changes in place it changes at each replay, and in the few
    runs before the recording. Raises ``RuntimeError`` for what a graph cannot hold.
    """

    def __init__(self, function: Callable[..., Any], inputs: tuple) -> None:
        leaves, self.spec = tree_flatten(inputs)
        self.inputs = [leaf.detach().clone() for leaf in leaves]
        self.replay, outputs = record(lambda: function(*tree_unflatten(self.inputs, self.spec)))
        self.outputs, self.out_spec = tree_flatten(outputs)

    def takes(self, inputs: tuple) -> bool:
        """Whether these are nested, shaped and typed as those of the recording."""
        leaves, spec = tree_flatten(inputs)
        forms = [(x.shape, x.dtype, x.device) for x in leaves]
        return spec == self.spec and forms == [(x.shape, x.dtype, x.device) for x in self.inputs]

    def __call__(self, *inputs: Any) -> Any:
        torch._foreach_copy_(self.inputs, tree_flatten(inputs)[0])
        self.replay()
        return tree_unflatten([x.clone() for x in self.outputs], self.out_spec)


def record(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Run ``function`` a few times, then record it. Returns what replays it, and its outputs:
    nested tensors that each replay fills anew. Raises ``RuntimeError`` for what no graph can
    hold."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs


def is_recording() -> bool:
    """Whether a CUDA graph is being recorded just now, so that no number can be looked at."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
