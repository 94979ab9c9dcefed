"""The dtype in which a device multiplies matrices fastest, when few digits suffice.

Source: the capabilities that torch reports; the instruction sets of oneDNN, which multiplies them.
"""

from __future__ import annotations

import functools
import os

import torch

AMPERE = (8, 0)  # the first CUDA capability with units for bfloat16
CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # environment variables that limit oneDNN
SLOW_CAPS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@functools.cache
def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if ``device`` has units for it, else float32.

    A CPU has them with AVX512-BF16 or AMX-BF16, unless a variable of oneDNN disables them. A CUDA
    device has them from capability 8.0. Without them bfloat16 is much slower than float32. The
    function measures nothing, so that all processes and runs on a machine agree.
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
