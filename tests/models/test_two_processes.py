"""Memories and models under DDP and FSDP2 do what they do in one process."""

import json

import pytest
import torch

from tests.models.two_processes import NAMES, RANKS, as_one_process, worker


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes did (most of the time they start Python)."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    torch.multiprocessing.spawn(worker, (folder,), nprocs=RANKS)
    results = [torch.load(f"{folder}/{rank}.pt") for rank in range(RANKS)]
    return results, [json.load(open(f"{folder}/{rank}.json")) for rank in range(RANKS)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["DDP", "FSDP2"])
def test_two_processes_are_as_one(ranks, way, name):
    y, *wanted = as_one_process(name)
    found = [of_rank[way, name] for of_rank in ranks[0]]
    assert (torch.cat([reads for reads, *_ in found]) - y).abs().max() < 1e-9
    for _, *ours in found:
        for tensors, like in zip(ours, wanted, strict=True):  # gradients, then weights
            assert len(tensors) == len(like)
            for a, b in zip(tensors, like):
                assert (a - b).abs().max() < 1e-9


@pytest.mark.parametrize("name", [*NAMES, "levels alone"])
def test_a_state_of_sharded_weights_is_refused_in_words(ranks, name):
    for said in ranks[1]:
        assert said[name].startswith("ValueError: ") and "fully_shard" in said[name]
        assert "let forward start the state" in said[name]
