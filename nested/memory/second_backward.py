"""A clear error for a second backward through a state; PyTorch's own error names no state.

Source: ``torch.autograd.graph.Node``, and ``retain_graph`` of ``Tensor.backward``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.graph import Node

from nested.levels.forward import State
from nested.memory.masks import is_traced
from nested.memory.state import leaves

MESSAGE = (
    "this backward goes through a state whose graph an earlier backward has freed: pass"
    " detached(state) on, or keep the graph with backward(retain_graph=True)"
)
KEY = "nested: backwards that freed this graph"


def watch_backward(y: Tensor, state: State) -> None:
    """Note each backward through ``y`` (...) that frees the graph of ``state``, nested tensors
    (...). ``refuse_second_backward`` reads these notes."""
    node = None if is_traced() or y.grad_fn is None else next(_nodes(state), None)
    if node is None:
        return
    freed_by: list[int] = []
    node.metadata[KEY] = freed_by  # a list without the graph: a cycle would never be collected
    y.grad_fn.register_prehook(lambda grads: _note_backward(freed_by))


def refuse_second_backward(state: State) -> None:
    """Make a backward through ``state``, nested tensors (...), raise a clear ``RuntimeError`` if
    an earlier backward has freed the graph of ``state``."""
    nodes = [] if is_traced() else list(_nodes(state))
    freed_by = nodes[0].metadata.get(KEY) if nodes else None
    if freed_by is None:
        return

    def refuse(grads: tuple[Tensor, ...]) -> None:
        if freed_by and freed_by[-1] != torch._C._current_graph_task_id():
            raise RuntimeError(MESSAGE)
        _note_backward(freed_by)

    for node in nodes:
        node.register_prehook(refuse)


def _note_backward(freed_by: list[int]) -> None:
    """Append the backward that runs now, unless it keeps the graph."""
    if not torch._C._autograd._get_current_graph_task_keep_graph():
        freed_by.append(torch._C._current_graph_task_id())


def _nodes(state: State) -> Iterator[Node]:
    """Yield the graph node of each tensor in ``state`` that has one."""
    for _, leaf in leaves(state):
        if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
            yield leaf.grad_fn
