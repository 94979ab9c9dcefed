"""Words for a second backward through a state: its graph is freed, and PyTorch does not say why.

Source: ``torch.autograd.graph.Node.register_prehook``, and ``retain_graph`` of ``backward``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor
from torch.autograd.graph import Node

MESSAGE = (
    "this backward goes through a state whose graph an earlier backward has freed: pass"
    " detached(state) on, or keep the graph with backward(retain_graph=True)"
)


def explain_second_backward(
    before: Iterable[Tensor], after: Iterable[Tensor], on_path: Iterable[Tensor]
) -> None:
    """Let a backward through the tensors ``after`` (...) raise a clear error if it must fail.

    ``before`` are the tensors (...) of the state that came in. What ``on_path`` holds lies on every
    way back from a tensor that is new in ``after``: once a backward has freed one of these nodes,
    another one has to stop there. The error is a ``RuntimeError``, as PyTorch's own.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return
    old = {id(x) for x in before}
    nodes = {x.grad_fn for x in after if x.grad_fn is not None and id(x) not in old}
    witnesses = {_first_that_saves(x.grad_fn) for x in on_path} - {None} if nodes else ()
    if not witnesses:
        return
    freed = []

    def note(grads: tuple[Tensor, ...]) -> None:
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            freed.append(True)

    def refuse(grads: tuple[Tensor, ...]) -> None:
        if freed:
            raise RuntimeError(MESSAGE)

    for node in nodes:  # first: a node may be on its own way back
        node.register_prehook(refuse)
    for node in witnesses:
        node.register_prehook(note)


def _first_that_saves(node: Node | None, steps: int = 6) -> Node | None:
    """The first node on the way back from ``node`` that keeps tensors: others can run again."""
    for _ in range(steps):
        if node is None or _saves_tensors(type(node)):
            return node
        node = node.next_functions[0][0] if node.next_functions else None
    return None


@cache
def _saves_tensors(kind: type) -> bool:
    """Whether a node of this kind keeps tensors for its backward."""
    return any(name.startswith("_raw_saved_") for name in dir(kind))
