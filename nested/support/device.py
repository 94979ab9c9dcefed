"""The device to compute on, and how much of its memory was used."""

from __future__ import annotations

import sys

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

DEVICES = ("auto", "cpu", "cuda", "mps")


def find_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; "auto" takes the first present of cuda, mps and cpu.

    With cuda it disables TensorFloat-32 for the whole process: that format rounds products to ten
    bits, and the CPU does not. Raises ``ValueError`` for an unknown name, and for a device that
    this machine does not have.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if name not in present:
        raise ValueError(f"there is no device {name!r}; choose one of {', '.join(DEVICES)}")
    if not present[name]:
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ValueError(f"this machine has no {name} device that PyTorch can use; it has: {there}")
    if name == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def peak_memory(device: torch.device) -> float:
    """Return the most memory that this process has used so far, in MiB: of a GPU if ``device`` is
    one, else of the machine. It is 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
