"""Where to compute."""

from __future__ import annotations

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def find_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; "auto" takes cuda, then mps, then cpu, as there is.

    Raises ``ValueError`` for an unknown name, and for a device that this machine does not have.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if name not in present:
        raise ValueError(f"there is no device {name!r}; choose one of {', '.join(DEVICES)}")
    if not present[name]:
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ValueError(f"this machine has no {name} device that PyTorch can use; it has: {there}")
    return torch.device(name)
