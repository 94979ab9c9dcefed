"""In which dtype a machine multiplies matrices well where few digits do.

Source: the capabilities that torch reports; the instruction sets of oneDNN, which multiplies them.
"""

from __future__ import annotations

import functools
import os

import torch

AMPERE = (8, 0)  # the first CUDA capability with units for bfloat16
CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # variables by which a user limits oneDNN
SLOW_CAPS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@functools.cache
def fast_dtype(device: torch.device) -> torch.dtype:
    """Look up whether ``device`` has units for bfloat16; return bfloat16 if so, else float32.

    A CPU has them with AVX512-BF16 or AMX-BF16, unless a variable of oneDNN switches them off; a
    CUDA device from capability 8.0. Without, bfloat16 takes many times as long as float32. Nothing
    is measured, so that all processes and all runs on a machine take the same.
    """
    if device.type == "cuda":
        has_units = torch.cuda.get_device_capability(device) >= AMPERE
    else:
        has_units = device.type == "cpu" and _cpu_has_units()
    return torch.bfloat16 if has_units else torch.float32


def _cpu_has_units() -> bool:
    if any(os.environ.get(name, "").upper() in SLOW_CAPS for name in CAPS):
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch before 2.11
    return is_supported is not None and is_supported()
