"""python -m nested.language: each command runs, and each mistake is one sentence."""

import io
import math

import pytest
import torch

from nested.language.__main__ import main
from nested.language.checkpoint import read_model
from nested.language.dashboard import Dashboard, line_of, time_left
from nested.models import Hope, ModelConfig, Transformer
from nested.models.movement import movement
from nested.support.progress import curve, visible
from tests.problems import generator

TINY = "--dim 16 --layers 1 --heads 2 --length 16 --batch-size 2 --steps 2 --text-length 32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained")
    (path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 90)
    out = path / "run"
    assert main(["train", "--data", str(path / "a.txt"), "--out", str(out), *TINY.split()]) == 0
    return out


def test_a_text_is_prepared_trained_on_and_written(trained, tmp_path, capsys):
    data = str(trained.parent / "a.txt")
    assert main(["prepare", "--data", data, "--out", str(tmp_path)]) == 0
    assert "documents: 1 kept" in capsys.readouterr().out
    assert (
        main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "x"), *TINY.split()]) == 0
    )
    printed = capsys.readouterr().out
    assert "2/2, 0:00 left  held out" in printed and "bits a byte at best" in printed
    write = ["generate", "--checkpoint", str(tmp_path / "x"), "--prompt", "To be", "--tokens", "9"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*write, "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("To be") and texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("train --mixer mamba", "mixer is one of"),
        ("train --preset huge", "a preset is one of nano"),
        ("train --data nowhere", "there is no text at 'nowhere'"),
        ("train --steps 0", "steps is a whole number from 1"),
        ("train --config nowhere.yaml", "cannot read settings"),
        ("train --device tpu", "there is no device 'tpu'"),
        ("prepare --data empty.txt", "no document of empty.txt is left: 1 too short"),
        ("prepare --data one.bin", "no document of one.bin is left: 1 too short"),
        ("prepare --data binary.bin", "is left: 1 binary"),
        ("prepare --held-out 2", "held_out is a share between 0 and 1"),
        ("prepare --min-letters 3", "min_letters is a share"),
        ("prepare --limit 0", "limit is a whole number from 1, but got 0"),
        ("prepare --seed -1", "a seed is a whole number from 0 to 2^63 - 1"),
        ("generate --seed 99999999999999999999", "a seed is a whole number from 0 to 2^63 - 1"),
        ("train --layers 10001", "layers cannot be over 10,000, but got 10,001"),
        ("train --dim 2000000000", "there is not enough memory: take smaller sizes"),
        ("generate --checkpoint nowhere", "there is no model at 'nowhere'"),
        ("generate --checkpoint {run} --tokens 0", "tokens is a whole number from 1"),
        ("generate --checkpoint {run} --top-p 2", "top_p is over 0 and at most 1"),
        ("generate --checkpoint {run}/log.jsonl", "cannot be read: it is truncated, or not"),
    ],
)
def test_each_mistake_is_one_sentence(arguments, message, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "one.bin").write_bytes(b"x")
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 9)
    assert main(arguments.format(run=trained).split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--speed", "3"]])
def test_flags_that_do_not_exist_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and "error: " in capsys.readouterr().err


def record(**more):
    bits = {"bits": 2.5, "mean_loss": 1.5, "tokens_per_second": 4000.0, "memory_mib": 321.0}
    moved = {"block 1 mixer": 0.5, "block 1 continuum, level 1": 0.01}
    sizes = {"step": 30, "total": 120, "seconds": 60.0, "moved": moved, "sample": "O\x1b[31m!\n"}
    return {**bits, **sizes, **more}


def test_a_line_says_what_was_measured():
    assert line_of(record()) == (
        "30/120, 3:00 left  held out 2.500 bits a byte, training 2.164, 4,000 tokens/s, 321 MiB"
    )
    assert time_left(record(step=120)) == "0:00"


def test_the_board_shows_levels_curve_sample_and_restarts():
    board, out = Dashboard("nano", io.StringIO()), io.StringIO()
    board.show(record(bits=4.0))
    board.show(record(bits=2.0))
    board.show({"step": 7, "loss": math.nan, "back_to": 0})
    lines = board.console.file.getvalue().splitlines()
    assert len(lines) == 3 and lines[2] == "step 7: loss nan, back to 0"
    board.console.file = out
    board.console.print(board._board())
    shown = out.getvalue()
    for part in ("nano", "2.000 bits a byte  █▁", "block 1 mixer", "50.0%", "O·[31m!", "back to 0"):
        assert part in shown


def test_between_two_measures_only_the_live_board_moves():
    board, out = Dashboard("nano", io.StringIO()), io.StringIO()
    second = {name: record()[name] for name in record().keys() - {"bits", "moved", "sample"}}
    board.show({**second, "step": 3})
    assert not board.console.file.getvalue()
    board.console.file = out
    board.console.print(board._board())
    assert "3 of 120" in out.getvalue() and "bits a byte" not in out.getvalue()
    board.show(record(bits=2.0))
    board.show({**second, "step": 31})
    board.console.print(board._board())
    assert "31 of 120" in out.getvalue() and "2.000 bits a byte" in out.getvalue()


def test_a_file_of_settings_can_set_everything(trained, tmp_path):
    (tmp_path / "a.yaml").write_text(f"seed: 5\ndevice: cpu\ndata: {trained.parent / 'a.txt'}\n")
    arguments = ["train", "--config", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "x")]
    assert main([*arguments, *TINY.split()]) == 0
    config = read_model(tmp_path / "x" / "last.pt")[0]
    assert (config.seed, config.device) == (5, "cpu")
    assert config.data == (str(trained.parent / "a.txt"),)


def test_curves_take_any_numbers():
    assert curve([1.0, float("nan"), 1.0]) == "▁▁" and curve([]) == ""
    assert visible("a\x00b\n") == "a·b\n"


def test_movement_names_each_level_and_a_transformer_has_none():
    model = Hope(ModelConfig(11, 8, 2, 2, "titans", (2, 4), 4))
    tokens = torch.randint(11, (2, 3), generator=generator())
    first, state = model.init(2), model(tokens)[1]
    moved = movement(model, first, state)
    assert list(moved)[:3] == ["block 1 mixer", "block 1 continuum, level 1"] + [
        "block 1 continuum, level 2"
    ]
    assert moved["block 1 mixer"] > 0 < moved["block 1 continuum, level 1"]
    assert moved["block 1 continuum, level 2"] == 0  # its clock is not due
    assert not any(movement(model, state, state).values())
    other = Transformer(ModelConfig(11, 8, 1, 2))
    assert movement(other, other.init(2), other(tokens)[1]) == {}
