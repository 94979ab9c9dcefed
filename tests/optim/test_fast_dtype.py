"""In which dtype M3 orthogonalises: the one in which the machine multiplies matrices well."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from nested.optim import M3
from nested.optim.fast_dtype import fast_dtype

BF16 = {"avx512_bf16": True, "amx_bf16": False}
CPU = torch.device("cpu")


def on_a_machine(monkeypatch, capabilities, **variables):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fast_dtype.cache_clear()


@pytest.fixture(autouse=True)
def forget_the_machine():
    yield
    fast_dtype.cache_clear()


@pytest.mark.parametrize(
    "capabilities, variables, expected",
    [
        (BF16, {}, torch.bfloat16),
        ({"amx_bf16": True}, {}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, {}, torch.float32),
        ({"architecture": "aarch64"}, {}, torch.float32),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, torch.float32),
        (BF16, {"DNNL_MAX_CPU_ISA": "avx512_core"}, torch.float32),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, torch.bfloat16),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "ALL"}, torch.bfloat16),
    ],
)
def test_a_cpu_is_looked_up(monkeypatch, capabilities, variables, expected):
    on_a_machine(monkeypatch, capabilities, **variables)
    assert fast_dtype(CPU) == expected


@pytest.mark.parametrize(
    "capability, expected", [((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_a_cuda_device_is_looked_up(monkeypatch, capability, expected):
    fast_dtype.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_dtype(torch.device("cuda", 0)) == expected


def test_other_devices_take_float32():
    assert fast_dtype(torch.device("mps")) == fast_dtype(torch.device("meta")) == torch.float32


@pytest.mark.parametrize("has_units", [False, True])
def test_m3_takes_it_and_says_so(monkeypatch, has_units):
    on_a_machine(monkeypatch, BF16 if has_units else {})
    expected = torch.bfloat16 if has_units else torch.float32
    found = {}
    for ns_dtype in (None, torch.bfloat16, torch.float32):
        p = nn.Parameter(torch.randn(8, 24, generator=torch.Generator().manual_seed(0)))
        optimizer = M3([p], 0.1, ns_dtype=ns_dtype)
        p.grad = torch.randn(8, 24, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        found[ns_dtype] = p.detach()
        assert optimizer.ns_dtype(p) == (ns_dtype or expected)
        assert f"orthogonalises in {ns_dtype or expected}" in repr(optimizer)
    assert torch.equal(found[None], found[expected])
    other = torch.float32 if has_units else torch.bfloat16
    assert not torch.equal(found[None], found[other])


@pytest.mark.parametrize(
    "dtype, has_units, expected",
    [
        (torch.float64, True, torch.float64),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.float32),
        (torch.float16, True, torch.float32),  # CPUs without AVX512-FP16 are slow in it
    ],
)
def test_weights_of_other_dtypes(monkeypatch, dtype, has_units, expected):
    on_a_machine(monkeypatch, BF16 if has_units else {})
    p = nn.Parameter(torch.ones(4, 6, dtype=dtype))
    assert M3([p], 0.1).ns_dtype(p) == expected


def test_without_matrices_nothing_is_said():
    p = nn.Parameter(torch.ones(4))
    assert "orthogonalises" not in repr(M3([p], 0.1))


CLAIM = """
import time, torch
from torch import nn
from nested.optim import M3
optimizers, best = {}, {}
for dtype in (None, torch.float32):
    p = nn.Parameter(torch.randn(384, 384))
    p.grad = torch.randn(384, 384)
    optimizers[dtype] = M3([p], 0.1, ns_dtype=dtype)
for _ in range(4):
    for dtype, optimizer in optimizers.items():
        start = time.perf_counter()
        optimizer.step()
        best[dtype] = min(best.get(dtype, 99.0), time.perf_counter() - start)
print(best[None] / best[torch.float32])
"""


@pytest.mark.parametrize("isa", ["AVX2", ""])
def test_the_default_is_never_much_slower_than_float32(isa):
    variables = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa} if isa else dict(os.environ)
    said = subprocess.run(
        [sys.executable, "-c", CLAIM], env=variables, capture_output=True, text=True, timeout=120
    )
    assert float(said.stdout) < 2, said.stderr
