"""Optimizers in two processes against the same run in one: under DDP, and under FSDP2."""

import warnings

import pytest
import torch
from torch import multiprocessing

from tests.optim.distributed_runs import (
    CASES,
    DTYPES,
    PROCESSES,
    SHAPES,
    UNEVEN,
    in_process,
    run,
    uneven,
)

REFUSED = {("fsdp", "DGD"), ("fsdp", "DGD sum")}
WITHIN = {"float64": 1e-9, "float32": 1e-4}  # float32 rounds sums over half the rows otherwise


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(in_process, (str(folder),), nprocs=PROCESSES)
    return torch.load(folder / "found", weights_only=False)


@pytest.mark.parametrize("how, name, dtype", CASES)
def test_two_processes_are_as_one(found, how, name, dtype):
    after = found[how, name, dtype]
    if (how, name) in REFUSED:
        assert after == (
            "ValueError: DGD takes no sharded weights, since no process has all inputs of a layer:"
            " use DistributedDataParallel"
        )
        return
    assert not isinstance(after, str), after
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = run(name, DTYPES[dtype], "alone")
    within = WITHIN["float32" if name == "M3 in float32" else dtype]  # it rounds as threads split
    for ours, theirs in zip(after, alone, strict=True):
        size = theirs.abs().max().clamp(min=1.0)
        assert (ours - theirs).abs().max() < within * size


@pytest.mark.parametrize("dtype", DTYPES)
def test_replicas_of_dgd_stay_together(found, dtype):
    assert found["drift", dtype] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_newton_schulz_of_a_matrix_that_is_cut_is_that_of_the_whole(found, shape, dim, dtype):
    apart = found["orthogonal", shape, dim, dtype]
    assert not isinstance(apart, str), apart
    assert max(apart) < (1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("reduction, rows", UNEVEN)
def test_dgd_counts_each_row_as_ddp_counts_its_loss(found, reduction, rows):
    after = found["uneven", reduction, rows]
    assert not isinstance(after, str), after
    for ours, theirs in zip(after, uneven(reduction, rows, "alone"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_plain_and_sharded_weights_are_moved_together(found):
    plain, cut = found["mixed"]
    assert torch.equal(plain, cut) and torch.allclose(plain, torch.full((4, 2), 0.8))


def test_a_stack_that_is_cut_inside_is_refused(found):
    assert found["cut inside"] == (
        "ValueError: M3 takes weights that are sharded along their first dimension, as"
        " fully_shard does by default, but one is sharded along another"
    )
