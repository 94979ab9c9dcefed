"""What goes over the wire between the grader and the process that runs a student's code.

Nested dicts, lists and tuples of tensors, numbers and words travel as JSON, their tensors as
safetensors bytes: reading either runs no code, whatever was sent. Source: the formats of the
``json`` module and the ``safetensors`` library.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import safetensors.torch
from torch import Tensor

HEAD = struct.Struct("<QQ")  # lengths in bytes: of the JSON, of the tensors
LARGEST_JSON, LARGEST_TENSORS = 2**20, 2**23  # bytes; more is refused


def pack(tree: Any) -> bytes:
    """Return ``tree``, with tensors (...) of any dtype, as bytes. Raises ``TypeError`` for a part
    that is neither a container, a tensor, a number, a word nor None."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(tree, tensors)).encode()
    body = safetensors.torch.save(tensors)
    return HEAD.pack(len(text), len(body)) + text + body


def _encode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        tensors[str(len(tensors))] = tree.detach().cpu().clone().contiguous()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise TypeError(f"keys are words, but got {list(tree)}")
        return {"dict": {key: _encode(value, tensors) for key, value in tree.items()}}
    if isinstance(tree, (list, tuple)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_encode(value, tensors) for value in tree]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return {"plain": tree}
    raise TypeError(f"a tensor, or dicts, lists and tuples of them, not a {type(tree).__name__}")


def unpack(text: bytes, body: bytes) -> Any:
    """Undo ``pack``. Raises ``ValueError`` for bytes that it cannot have made."""
    try:
        return _decode(json.loads(text), safetensors.torch.load(body))
    except Exception as error:  # bytes from a stranger make the readers raise anything
        raise ValueError("what came back from the student's process makes no sense") from error


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors.pop(content)  # each is named once: a few bytes cannot stand for gigabytes
    if kind == "dict":
        return {key: _decode(value, tensors) for key, value in content.items()}
    if kind in ("list", "tuple"):
        parts = [_decode(value, tensors) for value in content]
        return tuple(parts) if kind == "tuple" else parts
    return {"plain": content}[kind]


def send(wire: socket.socket, tree: Any) -> None:
    """Send ``tree``. Raises ``TypeError`` as ``pack`` does, ``OSError`` when nobody listens."""
    wire.sendall(pack(tree))


def receive(wire: socket.socket, deadline: float | None = None) -> Any:
    """Wait for a tree until ``deadline`` (seconds of ``time.monotonic``; None waits for ever).

    Raises ``TimeoutError`` when it passes, ``EOFError`` when the other side is gone, and
    ``ValueError`` for a message that is too large or makes no sense.
    """
    text_length, body_length = HEAD.unpack(_read(wire, HEAD.size, deadline))
    if text_length > LARGEST_JSON or body_length > LARGEST_TENSORS:
        raise ValueError(f"an answer of {text_length + body_length} bytes is too large")
    return unpack(_read(wire, text_length, deadline), _read(wire, body_length, deadline))


def _read(wire: socket.socket, length: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        if deadline is not None:
            wire.settimeout(max(deadline - time.monotonic(), 1e-3))
        some = wire.recv(min(length - len(parts), 2**20))
        if not some:
            raise EOFError("the student's process has ended")
        parts += some
    return bytes(parts)
