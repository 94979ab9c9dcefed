"""Training in two processes: the numbers of one, and checkpoints that any number of them resume."""

import os
import signal
import tempfile
from datetime import timedelta

import pytest
import torch
from torch import distributed, multiprocessing

from nested.language import run
from nested.language.checkpoint import read_model
from nested.language.config import TrainConfig
from nested.language.text import prepare
from nested.language.training import Training

MIXERS = ("linear", "titans", "selfmod", "transformer")
KINDS = ("ddp", "fsdp")


def config(folder, mixer="linear", **settings):
    sizes = {"dim": 16, "layers": 2, "heads": 2, "chunk": 8, "periods": (8, 16), "length": 24}
    sizes |= {"batch_size": 4, "steps": 6, "text_length": 80, "facts": 0.25, "device": "cpu"}
    # Rows of longer n-grams get gradients of 1e-9, mostly rounding errors, and AdamW divides by
    # their size. Two halves of a batch in one process then differ by 2e-5 as well.
    sizes["ngrams"] = (2,)
    return TrainConfig(data=(f"{folder}/text",), mixer=mixer, **{**sizes, **settings})


def work(rank, count, meet, folder, jobs):
    """One process of ``count`` that runs ``jobs``: (name, kind, mixer, whether to resume)."""
    os.environ.update(RANK=str(rank), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)  # an error in one process must not hang the other
    distributed.init_process_group("gloo", f"file://{meet}", limit, count, rank)
    run.SAMPLE, run.PIECES = 3, 2

    def press_ctrl_c(record):
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    for name, kind, mixer, resume in jobs:
        more = {"resume": resume, "parallel": kind}
        if name.startswith("cut"):
            more["show"] = press_ctrl_c
        run.train(config(folder, mixer), f"{folder}/{name}", **more)
    distributed.destroy_process_group()


def start(count, folder, jobs):
    with tempfile.TemporaryDirectory() as place:
        multiprocessing.spawn(work, (count, f"{place}/meet", str(folder), jobs), nprocs=count)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes")
    (path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    (path / "b.txt").write_text("All the world's a stage, and all the men and women.\n" * 40)
    sources = [str(path / "a.txt"), str(path / "b.txt")]
    prepare(sources, path / "text", show=lambda line: None)
    return path


@pytest.fixture(scope="module")
def trained(folder):
    """The folder of trainings: alone, in two processes, and cut by two and ended by one."""
    runs = [(kind, mixer) for kind in KINDS for mixer in MIXERS]
    start(1, folder, [(f"alone {mixer}", None, mixer, False) for mixer in MIXERS])
    start(2, folder, [(f"{kind} {mixer}", kind, mixer, False) for kind, mixer in runs])
    start(2, folder, [(f"cut {kind} {mixer}", kind, mixer, False) for kind, mixer in runs])
    start(1, folder, [(f"cut {kind} {mixer}", kind, mixer, True) for kind, mixer in runs])
    return folder


def weights(folder, name):
    return read_model(folder / name / "best.pt")[2]["model"]


@pytest.mark.lessons
@pytest.mark.parametrize("name", ["{kind} {mixer}", "cut {kind} {mixer}"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_processes_are_as_one(trained, mixer, kind, name):
    alone, name = weights(trained, f"alone {mixer}"), name.format(kind=kind, mixer=mixer)
    ours = weights(trained, name)
    apart = {n: (ours[n] - alone[n]).abs().max().item() for n in alone}
    assert max(apart.values()) < 1e-5, {n: x for n, x in apart.items() if x > 1e-6}
    bits = [read_model(trained / f / "last.pt")[2]["records"][-1] for f in (name, f"alone {mixer}")]
    assert bits[0]["step"] == 6 and abs(bits[0]["bits"] - bits[1]["bits"]) < 1e-4
    assert [p.name for p in (trained / name).glob("shards-*")] == ["shards-00000006-0"]


@pytest.mark.lessons
def test_a_broken_shard_is_refused_and_nothing_is_lost(trained):
    (shards,) = (trained / "fsdp linear").glob("shards-*")
    part = sorted(shards.iterdir())[0]
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(Exception, match="shards-00000006-0' cannot be read: "):
            start(1, trained, [("fsdp linear", "fsdp", "linear", True)])
    finally:
        part.write_bytes(whole)
    start(1, trained, [("fsdp linear", "fsdp", "linear", True)])


@pytest.mark.lessons
def test_a_training_in_shards_is_not_resumed_without_processes(trained):
    with pytest.raises(ValueError, match="was made with --parallel"):
        run.train(config(trained), trained / "ddp linear", resume=True)


def test_processes_that_cannot_be_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="parallel is one of ddp, fsdp, but got 'zero'"):
        run.train(config(folder), tmp_path, parallel="zero")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2 -m nested.language train"):
        run.train(config(folder), tmp_path, parallel="fsdp")
    processes = run.Processes(torch.device("cpu"), "ddp", 0, 3)
    with pytest.raises(ValueError, match="4 texts cannot be shared by 3 processes"):
        Training(config(folder), run.Text(f"{folder}/text"), 6, processes)
