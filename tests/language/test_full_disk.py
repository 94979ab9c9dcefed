"""A full disk ends a training with one sentence, and what was saved before goes on."""

import subprocess

import pytest
import torch

from nested.language.checkpoint import load, read_model, save_state
from nested.language.run import train
from nested.language.text import prepare
from tests.language.test_run import config


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 6,000 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6000k", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the program mount")
    if made.returncode:
        pytest.skip("needs the right to mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 90)
    prepare([str(tmp_path / "a.txt")], tmp_path / "text", show=lambda line: None)
    return str(tmp_path / "text")


def test_a_disk_that_fills_up_ends_the_training_and_loses_nothing(disk, text):
    first = train(config(text, steps=4), disk / "run")
    assert first.finished
    run, filler = disk / "run", disk / "filler"
    best = (run / "best.pt").read_bytes()
    with pytest.raises(OSError):
        filler.write_bytes(bytes(6_200_000))
    with pytest.raises(ValueError, match="cannot write .*: No space left on device"):
        train(config(text, steps=8), disk / "run", resume=True)
    assert (run / "best.pt").read_bytes() == best
    assert read_model(run / "last.pt")[2]["training"]["step"] == 4
    filler.unlink()
    assert train(config(text, steps=4), disk / "run", resume=True).finished
    model, _ = load(run)
    with pytest.raises(OSError):
        filler.write_bytes(bytes(6_200_000))
    with pytest.raises(ValueError, match="cannot write .*: No space left on device"):
        save_state(disk / "memory.pt", model, model(torch.zeros(1, 9).long())[1])
    assert not (disk / "memory.pt").exists()


def test_a_disk_that_is_too_small_for_the_text_says_so(disk, tmp_path):
    (tmp_path / "b.txt").write_text("All the world's a stage.\n" * 320_000)
    with pytest.raises(ValueError, match="cannot write|No space left"):
        prepare([str(tmp_path / "b.txt")], disk / "text", show=lambda line: None)
