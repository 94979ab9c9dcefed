"""Records go to TensorBoard and to Weights & Biases as they are, without a network."""

import time

import pytest

from nested.support.logs import LOGS, log_to

RECORD = {"step": 3, "bits": 2.5, "sample": "To be", "moved": {"block 1 mixer": 0.25}}


def test_tensorboard_finds_the_numbers_and_the_sample(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install -e .[log]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_to("tensorboard", tmp_path)(RECORD)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("bits")] == [(3, 2.5)]
    assert events.Scalars("moved/block 1 mixer")[0].value == 0.25
    (text,) = events.Tensors("sample/text_summary")
    assert text.tensor_proto.string_val == [b"To be"]


def test_wandb_writes_a_run_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install -e .[log]")
    log_to("wandb", tmp_path)(RECORD)
    wandb.finish()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    until = time.monotonic() + 30  # another process writes the file
    while b"moved/block 1 mixer" not in file.read_bytes():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert b"bits" in file.read_bytes()


def test_another_log_is_refused(tmp_path):
    with pytest.raises(ValueError, match="log is one of tensorboard, wandb, but got 'mlflow'"):
        log_to("mlflow", tmp_path)
    assert set(LOGS) == {"tensorboard", "wandb"}
