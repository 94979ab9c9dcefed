"""Training: it learns, says what it measured, and goes on bit for bit after any end."""

import json
import math
import os
import re
import signal

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nested.language import checkpoint, load
from nested.language.config import OPTIMIZERS, PRESETS, TrainConfig, plain
from nested.language.measures import bits_per_byte, even_pieces
from nested.language.run import train
from nested.language.text import Text, prepare
from nested.language.training import SNAPSHOT_EVERY, WRITE_PRICE, Training
from nested.language.windows import ANSWERED, Windows
from nested.support.settings import from_preset, settings_from
from tests.problems import generator

SMALL = {"dim": 16, "layers": 2, "heads": 2, "chunk": 8, "periods": (8, 16), "length": 24}
SMALL |= {"batch_size": 3, "steps": 6, "text_length": 80, "facts": 0.34, "ngrams": (2,)}
MEASURED = ("step", "loss", "norm", "bits", "sample", "mean_loss")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return prepare(["shakespeare"], tmp_path_factory.mktemp("text"), show=lambda line: None)


@pytest.fixture(scope="module")
def folder(text, tmp_path_factory):
    """The folder of a prepared text, of which only a little is held out."""
    path = tmp_path_factory.mktemp("little")
    (path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    (path / "b.txt").write_text("All the world's a stage, and all the men and women.\n" * 40)
    prepare([str(path / "a.txt"), str(path / "b.txt")], path / "text", show=lambda line: None)
    return str(path / "text")


@pytest.fixture(autouse=True)
def measured_quickly(monkeypatch):
    monkeypatch.setattr("nested.language.run.SAMPLE", 5)
    monkeypatch.setattr("nested.language.run.PIECES", 2)


def config(folder, **settings):
    return TrainConfig(data=(folder,), **{**SMALL, **settings})


def comparable(history):
    return [{name: record[name] for name in MEASURED} for record in history.records]


def weights(path):
    return checkpoint.read_model(path / "last.pt")[2]["model"]


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention", "transformer"])
def test_a_training_that_was_ended_goes_on_bit_for_bit(mixer, carry, folder, tmp_path):
    settings = config(folder, mixer=mixer, carry=carry)
    whole = train(settings, tmp_path / "whole")

    def press_ctrl_c(record):
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    first = train(settings, tmp_path / "parts", show=press_ctrl_c)
    assert not first.finished and len(first.records) == 3
    second = train(settings, tmp_path / "parts", resume=True)
    assert second.finished and comparable(second) == comparable(whole)
    ours, wanted = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    lines = [json.loads(line) for line in open(tmp_path / "parts" / "log.jsonl")]
    assert lines == second.records and lines[-1]["total"] == 6


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "adamw"])
@pytest.mark.filterwarnings("ignore:the rule|DGD got no inputs:UserWarning")
def test_every_optimizer_trains_and_goes_on(optimizer, folder, tmp_path):
    mixer = "transformer" if optimizer == "dgd" else "linear"
    settings = config(folder, optimizer=optimizer, mixer=mixer, lr=1e-3)
    whole = train(settings, tmp_path / "whole")
    stop = lambda r: os.kill(os.getpid(), signal.SIGINT) if r["step"] == 2 else None  # noqa: E731
    train(settings, tmp_path / "parts", show=stop)
    assert comparable(train(settings, tmp_path / "parts", resume=True)) == comparable(whole)
    assert all(math.isfinite(record["bits"]) for record in whole.records)


def test_the_price_of_a_write_is_that_of_all_windows_of_a_step(folder):
    for more in ({}, {"length": 48}, {"accumulate": 2}):
        settings = config(folder, recall=(3,), **more)
        run = Training(settings, Text(folder), 9)
        tokens = settings.batch_size * settings.length * settings.accumulate
        assert run.model.blocks[0].recall.price == pytest.approx(WRITE_PRICE / tokens)


def test_nothing_is_saved_twice(folder, tmp_path):
    train(config(folder), tmp_path)
    before = (tmp_path / "last.pt").stat()
    assert train(config(folder), tmp_path, resume=True).finished
    after = (tmp_path / "last.pt").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_number_of_models_under_zero_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="keep is 0 models or more, but got -1"):
        train(config(folder), tmp_path, keep=-1)


def test_a_text_that_was_prepared_anew_with_other_tokens_is_refused(tmp_path):
    pytest.importorskip("tokenizers", reason="the extra [language] is not installed")
    (tmp_path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 90)
    sources, quiet = [str(tmp_path / "a.txt")], {"show": lambda line: None}
    prepare(sources, tmp_path / "text", **quiet)
    settings = config(str(tmp_path / "text"), facts=0.0)
    train(settings, tmp_path / "run")
    prepare(sources, tmp_path / "text", vocab=270, **quiet)
    with pytest.raises(ValueError, match="the text was prepared anew, with other tokens"):
        train(settings, tmp_path / "run", resume=True)


def test_dgd_says_what_it_cannot_train(folder, tmp_path):
    with pytest.raises(ValueError, match="take the mixer transformer, not linear"):
        train(config(folder, optimizer="dgd"), tmp_path)


def test_training_learns_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 90)
    data, run = (str(tmp_path / "a.txt"),), tmp_path / "run"
    history = train(TrainConfig(data, **{**SMALL, "steps": 60, "lr": 0.02, "facts": 0}), run)
    assert history.records[0]["bits"] > 7 and history.best < 2
    model, coder = load(run)
    pieces = even_pieces(Text(run / "text").held_out, 4, 380)
    assert bits_per_byte(model, coder, pieces) < 2


def test_bits_a_byte_are_those_of_a_model_that_guesses_evenly(text):
    pieces = even_pieces(text.held_out, 3, 50)
    model = lambda tokens, state: (torch.zeros(*tokens.shape, 256), None)  # noqa: E731
    model.parameters = lambda: iter([torch.zeros(1)])
    model.training, model.eval, model.train = False, lambda: None, lambda mode: None
    assert bits_per_byte(model, text.coder, pieces) == pytest.approx(8)


def test_windows_read_texts_on_and_mark_their_beginnings(text):
    windows = Windows(text.train, text.coder, 4, 10, 35, 0.25, generator())
    texts = [[] for _ in range(4)]
    for _ in range(60):
        window = windows.draw()
        for b in range(4):
            count = window.lengths[b]
            assert 1 <= count <= 10
            tokens, targets, weights = window.tokens[b], window.targets[b], window.weights[b]
            assert (weights[count:] == 0).all()
            if b > 0 and len(texts[b]) > 1:  # the first row has facts
                assert (weights[:count] == 1).all()
            assert (tokens[1:count] == targets[: count - 1]).all()
            if window.is_new[b]:
                texts[b].append([])
            elif texts[b][-1]:  # it goes on where the last window ended
                assert tokens[0] == texts[b][-1][-1]
            texts[b][-1] += targets[:count].tolist()
    for row in texts[1:]:
        assert {len(t) for t in row[1:-1]} == {35}
    everything = b"".join(text.coder.decode(text.train.tokens(i)) for i in range(len(text.train)))
    for row in texts[1:]:
        assert all(text.coder.decode(t) in everything for t in row[1:])
    assert b"The code of " in text.coder.decode(sum(texts[0], []))


def test_some_texts_leave_tokens_unwritten_but_no_facts(text):
    windows, shares = Windows(text.train, text.coder, 8, 50, 400, 0.25, generator()), []
    for _ in range(40):
        window = windows.draw()
        assert window.write[:6].all()  # two rows of facts, four of text
        shares += window.write[6:].double().mean(dim=1).tolist()
    assert min(shares) < 0.1 and max(shares) > 0.9 and 0.4 < sum(shares) / len(shares) < 0.6
    first = Windows(text.train, text.coder, 8, 50, 400, 0.25, generator()).draw(0.0)
    assert (first.write | (first.weights == 1)).all()  # at first all rows have facts
    assert Windows(text.train, text.coder, 8, 50, 400, 0.0, generator()).draw().write is None


def test_a_training_starts_with_facts_only(text):
    rows, windows = [], Windows(text.train, text.coder, 8, 200, 1600, 0.25, generator())
    for progress in (0.0, 0.025, 0.5):
        targets = torch.cat([windows.draw(progress).targets for _ in range(60)][-20:], dim=1)
        rows.append(sum(b"The code of" in text.coder.decode(row) for row in targets.tolist()))
    assert rows == [8, 4, 2]  # the share goes down to a quarter


def test_each_window_of_facts_asks_for_facts_that_it_states(text):
    windows, asked = Windows(text.train, text.coder, 1, 300, 3000, 1.0, generator()), 0
    for _ in range(60):
        window = windows.draw()
        words = text.coder.decode(window.tokens[0, : window.lengths[0]].tolist()).decode()
        lines = re.findall(r"The code of \w+ is \d{4}\.\n", words)
        assert all(lines.count(line) == 2 for line in lines), words
        asked += len(lines) // 2
    assert asked > 60


def test_only_the_answers_of_a_text_of_facts_count(text):
    windows, seen = Windows(text.train, text.coder, 1, 500, 600, 1.0, generator()), 0
    for _ in range(20):
        window = windows.draw()
        words = text.coder.decode(window.targets[0, : window.lengths[0]].tolist()).decode()
        heavy = window.weights[0] == ANSWERED
        assert (window.weights[0][~heavy] == 0).all()
        told = {}
        for answer in re.finditer(r"The code of (\w+) is( \d{4}\.\n)", words):
            is_again = told.get(answer[1]) == answer[2]
            assert not is_again or heavy[answer.start(2) : answer.end(2)].all()
            seen, told[answer[1]] = seen + is_again, answer[2]
        codes = text.coder.decode(window.targets[0][heavy].tolist())
        assert re.fullmatch(rb"[ \d.\n]*", codes)
    assert seen > 10


def test_the_carried_state_is_that_of_the_text_so_far(folder):
    run = Training(config(folder, carry=True, facts=0.0), Text(folder), 100)
    parts = [[] for _ in range(3)]
    for optimizer in run.optimizers:
        optimizer.step = lambda closure: None  # the same weights for all windows
    draw, kept = run.windows.draw, []
    run.windows.draw = lambda progress: kept.append(draw(progress)) or kept[-1]
    for _ in range(12):
        run.take_step()
        for b in range(3):
            parts[b] = [] if kept[-1].is_new[b] else parts[b]
            parts[b] += kept[-1].tokens[b, : kept[-1].lengths[b]].tolist()
    more = torch.randint(256, (3, 5), generator=generator())
    with torch.no_grad():
        ours, _ = run.model.eval()(more, run.carried)
        for b in range(3):
            _, state = run.model(torch.tensor([parts[b]]))
            assert torch.allclose(ours[b], run.model(more[b : b + 1], state)[0][0], atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e6])
def test_a_bad_step_goes_back_to_good_weights_and_says_so(bad, folder):
    run = Training(config(folder), Text(folder), 100)
    for _ in range(SNAPSHOT_EVERY + 3):
        run.take_step()
    good = {n: w.clone() for n, w in run._good["model"].items()}
    with torch.no_grad():
        run.model.head.weight.mul_(bad)
    result = run.take_step()
    assert result["back_to"] == SNAPSHOT_EVERY == run.step and run.restarts == 1
    assert all(torch.equal(w, good[n]) for n, w in run.model.state_dict().items())
    assert math.isfinite(run.take_step()["loss"])


@pytest.mark.parametrize("part", ["weights", "state"])
def test_a_snapshot_is_of_weights_that_were_good_and_a_bad_state_is_forgotten(part, folder):
    run = Training(config(folder, carry=True, text_length=10_000), Text(folder), 100)
    for _ in range(SNAPSHOT_EVERY):
        run.take_step()
    with torch.no_grad():
        for tensor in run.model.parameters() if part == "weights" else tree_leaves(run.carried):
            if tensor.is_floating_point():
                tensor.mul_(math.nan)
    assert run.take_step()["back_to"] == (0 if part == "weights" else run.step)
    assert math.isfinite(run.take_step()["loss"]) and run.restarts == 1


def test_a_training_that_explodes_again_and_again_ends_in_one_sentence(folder):
    run = Training(config(folder, lr=1e30), Text(folder), 100)
    with pytest.raises(ValueError, match="explodes again and again at step .*: take a lower rate"):
        for _ in range(100):
            run.take_step()


def test_a_resumed_training_can_have_more_steps(folder, tmp_path):
    train(config(folder, steps=2), tmp_path)
    history = train(config(folder, steps=5), tmp_path, resume=True)
    assert history.finished and history.records[-1]["step"] == 5


def test_what_is_not_a_training_is_not_resumed(folder, tmp_path):
    train(config(folder, steps=1), tmp_path)
    (tmp_path / "best.pt").replace(tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt' holds a model, but no training to resume"):
        train(config(folder), tmp_path, resume=True)


def test_text_with_other_tokens_is_refused_or_prepared_again(folder, tmp_path):
    with pytest.raises(ValueError, match="was prepared with vocab None, and not 300: prepare it"):
        train(config(folder, vocab=300), tmp_path / "a")
    pytest.importorskip("tokenizers", reason="pip install -e .[language]")
    (tmp_path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 90)
    settings = {"data": (str(tmp_path / "a.txt"),), **SMALL, "steps": 1}
    train(TrainConfig(**settings), tmp_path / "run")
    (tmp_path / "run" / "last.pt").unlink()
    train(TrainConfig(**settings, vocab=280), tmp_path / "run")
    assert Text(tmp_path / "run" / "text").about["vocab"] == 280


def test_a_folder_holds_one_training(folder, tmp_path):
    with pytest.raises(ValueError, match="there is no training to resume in"):
        train(config(folder), tmp_path, resume=True)
    train(config(folder, steps=1), tmp_path)
    with pytest.raises(ValueError, match="holds a training: take --resume"):
        train(config(folder), tmp_path)
    with pytest.raises(
        ValueError, match=r"has other settings: dim 16 \(now 32\), seed 0 \(now 1\)"
    ):
        train(config(folder, dim=32, seed=1), tmp_path, resume=True)


def test_the_last_measures_are_kept(folder, tmp_path):
    train(config(folder), tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [
        "step-00000005.pt",
        "step-00000006.pt",
    ]
    load(tmp_path / "step-00000005.pt")


def test_models_that_cannot_be_loaded_are_refused_in_one_sentence(folder, tmp_path):
    with pytest.raises(ValueError, match="there is no model at"):
        load(tmp_path / "none")
    train(config(folder, steps=1), tmp_path / "run")
    path = tmp_path / "run" / "last.pt"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no checkpoint"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read: it is truncated, or not a"):
            load(tmp_path / "bad.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="no language model of this package"):
        load(tmp_path / "bad.pt")
    content = checkpoint.read_model(path)[2]
    sizes = content["config"]
    for more in ({"dim": 32}, {"dim": 2 * 10**7}, {"layers": 9000}):  # which no memory can hold
        torch.save({**content, "config": {**sizes, **more}}, tmp_path / "bad.pt")
        with pytest.raises(ValueError, match="holds other weights than its settings"):
            load(tmp_path / "bad.pt")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("was_executed",)


def test_a_checkpoint_with_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "was_executed").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mixer": "mamba"}, "mixer is one of selfmod, titans, linear, attention, transformer"),
        ({"optimizer": "sgd"}, "optimizer is one of adamw, muon, m3, dgd, nested, learned, but"),
        ({"precision": "half"}, "precision is one of float32, bfloat16, but got 'half'"),
        ({"lr": 0}, "lr is over 0, but got 0"),
        ({"minutes": math.nan}, "minutes is over 0, but got nan"),
        ({"facts": 1.5}, "facts is a share from 0 to 1, but got 1.5"),
        ({"steps": 0}, "steps is a whole number from 1"),
        ({"dim": 100}, "dim is a multiple of 2 x heads"),
        ({"data": ()}, "data names one text or more"),
        ({"speed": 3}, "there is no setting 'speed'; settings: accumulate, batch_size"),
        ({"lr": "fast"}, "lr is a number, but got 'fast'$"),
        ({"lr": "3e-3"}, "lr is a number, but got '3e-3'; write 0.003"),
        ({"carry": "yes"}, "carry is true or false or nothing, but got 'yes'"),
        ({"dim": True}, "dim is a whole number, but got True"),
        ({"data": [1, 2]}, r"data is a list, each part text, but got \(1, 2\)"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        from_preset(PRESETS, "nano", settings)


def test_settings_come_from_a_file(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "settings.yaml"
    path.write_text("mixer: titans\nperiods: [4, 8]\nlr: 0.01\n")
    made = from_preset(PRESETS, "nano", settings_from(path, "language"))
    assert (made.mixer, made.periods, made.lr) == ("titans", (4, 8), 0.01)
    assert TrainConfig(**json.loads(json.dumps(plain(made)))) == made
    for content in ("[1, 2]", "a: [", "just words"):
        path.write_text(content)
        with pytest.raises(ValueError, match="settings"):
            settings_from(path, "language")
    with pytest.raises(ValueError, match="cannot read settings from"):
        settings_from(tmp_path / "none.yaml", "language")


def test_presets_grow_and_another_name_is_refused():
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in settings.build(settings.vocab or 259).parameters())
            for settings in PRESETS.values()
        ]
    assert sizes == sorted(sizes) and 0.9e9 < sizes[-1] < 1.2e9
    with pytest.raises(ValueError, match="a preset is one of nano, balanced, deep, billion"):
        from_preset(PRESETS, "tiny", {})


def test_text_shorter_than_a_window_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="no held-out document has 10000000 tokens; the longest"):
        even_pieces(text.held_out, 4, 10_000_000)
