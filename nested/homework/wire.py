"""Send and receive messages between the grader and the process that runs a student's code.

Nested dicts, lists and tuples of tensors, numbers and strings are sent as JSON, and their tensors
as safetensors bytes. Reading either format never runs code. A named tuple comes back as the same
class on the side that made it. On the other side it has no field names. Source: the formats of the
``json`` module and the ``safetensors`` library.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import time
from collections import namedtuple
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils._pytree import is_namedtuple_class

HEAD = struct.Struct("<QQ")  # lengths in bytes: of the JSON, of the tensors
LARGEST_JSON, LARGEST_TENSORS = 2**20, 2**23  # bytes; more is refused
MOST_PARTS = 20_000  # of a message
MOST_KINDS = 100  # of named tuples
SECONDS_A_MESSAGE = 5.0  # from its first byte to its last

DTYPES = {  # by their names in the format
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
KINDS: dict[str, type] = {}  # named tuples, by their names on the wire


class Descriptor:
    """A socket that is used by reads and writes alone: a student's process may make no other calls.

    ``number`` is its descriptor. Raises ``OSError`` when the other side is gone."""

    def __init__(self, number: int) -> None:
        self.number = number

    def recv(self, most: int) -> bytes:
        """Wait for up to ``most`` bytes. Returns none when the other side has closed."""
        return os.read(self.number, most)

    def sendall(self, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.number, view) :]


def pack(tree: Any) -> bytes:
    """Return ``tree``, with tensors (...) of any dtype, as bytes.

    Raises ``TypeError`` for a part that is no container, tensor, number, string or None."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(tree, tensors)).encode()
    body = _body(tensors)
    return HEAD.pack(len(text), len(body)) + text + body


def _body(tensors: dict[str, Tensor]) -> bytes:
    """Write ``tensors`` in the format of ``safetensors.torch.save``, but faster if they are small.
    Raises ``TypeError`` for a dtype that the format lacks."""
    header, parts, end = {}, [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"tensors of {tensor.dtype} cannot be sent")
        flat = tensor.cpu().contiguous().reshape(-1)
        parts.append(flat.view(torch.uint8).numpy().tobytes())
        places = [end, end := end + len(parts[-1])]
        about = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**about, "data_offsets": places}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _encode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        tensors[str(len(tensors))] = tree.detach()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(tree, dict):
        if not all(type(key) in (str, int) for key in tree):
            raise TypeError(f"keys are strings or whole numbers, but got {list(tree)}")
        return {"dict": [[key, _encode(value, tensors)] for key, value in tree.items()]}
    if is_namedtuple_class(type(tree)):
        return {"named": [_name(type(tree)), *(_encode(value, tensors) for value in tree)]}
    if isinstance(tree, (list, tuple)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_encode(value, tensors) for value in tree]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return {"plain": tree}
    raise TypeError(
        f"return tensors, or dicts, lists and tuples of them, not a {type(tree).__name__}"
    )


def _name(kind: type) -> str:
    name = getattr(kind, "name_on_the_wire", f"{kind.__module__}.{kind.__qualname__}")[:200]
    KINDS.setdefault(name, kind)
    return name


def _kind(name: str, count: int) -> type:
    """Return the named tuple called ``name``, or on the other side one with ``count`` fields."""
    if name not in KINDS:
        if len(KINDS) >= MOST_KINDS or len(name) > 200:
            raise ValueError("too many kinds of named tuples")
        parts = [f"part{i}" for i in range(count)]  # names from the sender never become code
        KINDS[name] = namedtuple("Named", parts)
        KINDS[name].name_on_the_wire = name
    return KINDS[name]


def unpack(text: bytes, body: bytes) -> Any:
    """Undo ``pack``. Raises ``ValueError`` for bytes that ``pack`` never makes, for too many parts,
    and for tensors (...) that are too large. Dimensions of size 0 count as 1."""
    if text.count(b"{") > MOST_PARTS:
        raise ValueError(f"the answer has too many parts: more than {MOST_PARTS}")
    try:
        tensors = safetensors.torch.load(body)
        tree = _decode(json.loads(text), tensors.copy())
    except Exception as error:  # broken bytes can raise any exception
        raise ValueError("the answer of the student's process cannot be read") from error
    for tensor in tensors.values():
        if math.prod(max(size, 1) for size in tensor.shape) > LARGEST_TENSORS:
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is too large")
    return tree


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors.pop(content)  # once each, so that a few bytes cannot stand for gigabytes
    if kind == "dict":
        return {key: _decode(value, tensors) for key, value in content}
    if kind == "named":
        name, *parts = content
        return _kind(name, len(parts))(*(_decode(part, tensors) for part in parts))
    if kind in ("list", "tuple"):
        parts = [_decode(value, tensors) for value in content]
        return tuple(parts) if kind == "tuple" else parts
    return {"plain": content}[kind]


def send(wire: socket.socket | Descriptor, tree: Any) -> None:
    """Send ``tree``. Raises ``TypeError`` as ``pack`` does, and ``OSError`` for a closed socket."""
    wire.sendall(pack(tree))


def receive(wire: socket.socket | Descriptor, deadline: float | None = None) -> Any:
    """Wait for a message until ``deadline``, in seconds of ``time.monotonic``, or for ever.

    Raises ``TimeoutError`` at the deadline, and for a message that takes longer than
    ``SECONDS_A_MESSAGE``. Raises ``EOFError`` when the other side is gone, and ``ValueError`` for a
    message that is too large or cannot be read.
    """
    head = _read(wire, 1, deadline)
    try:
        if deadline is not None:
            deadline = min(deadline, time.monotonic() + SECONDS_A_MESSAGE)
        text_length, body_length = HEAD.unpack(head + _read(wire, HEAD.size - 1, deadline))
        if text_length > LARGEST_JSON or body_length > LARGEST_TENSORS:
            raise ValueError(f"the answer of {text_length + body_length} bytes is too large")
        text, body = _read(wire, text_length, deadline), _read(wire, body_length, deadline)
    except TimeoutError as error:
        raise TimeoutError("the answer came in pieces, and never ended") from error
    return unpack(text, body)


def _read(wire: socket.socket | Descriptor, length: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:  # bytes that come one by one do not extend it
                raise TimeoutError("the deadline has passed")
            wire.settimeout(left)
        piece = wire.recv(min(length - len(parts), 2**20))
        if not piece:
            raise EOFError("the student's process has ended")
        parts += piece
    return bytes(parts)
