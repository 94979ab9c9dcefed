"""The command: equal trials, equal numbers, resumed, and clear about what it cannot do."""

import json
import subprocess
import sys
import types
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch

from nested.continual.__main__ import main
from nested.continual.config import PRESETS, ContinualConfig
from nested.continual.experiment import (
    Comparison,
    Job,
    _best,
    compare,
    new_strategy,
    stream_of,
    train,
    trial_settings,
)
from nested.continual.metrics import average_accuracy
from nested.continual.nets import Checkpointed, build_net
from nested.continual.registry import STRATEGIES
from nested.continual.report import differences, near_an_end
from nested.continual.run import Result
from nested.support.files import load_checkpoint

SMALL = ContinualConfig(
    strategies=("fine-tuning", "replay", "nested"), limit=20, seeds=2, trials=2, tuning_seeds=1
)
FLAGS = "--limit 20 --seeds 2 --trials 2 --tuning-seeds 1 --strategies replay nested".split()


def test_every_strategy_gets_as_many_trials_inside_its_ranges():
    for name, kind in STRATEGIES.items():
        trials = trial_settings(name, replace(SMALL, trials=30))
        assert len(set(trials)) == 30
        for settings in trials:
            for key, value in settings:
                low, high = kind.ranges[key]
                assert low * 0.99 <= value <= high * 1.01


def test_tuning_uses_other_streams_than_measuring(tmp_path):
    compare(SMALL, tmp_path)
    runs = load_checkpoint(tmp_path / "runs.pt")["runs"]
    tuned = {seed for name, _, seed, _ in runs if seed >= 10_000}
    assert {seed for *_, seed, _ in runs} - tuned == {0, 1} and len(tuned) == 1
    assert len(runs) == 3 * (2 * 1 + 2)


@pytest.mark.parametrize("kind", ["class", "domain"])
def test_tuning_sees_nothing_of_what_is_measured(kind):
    config = replace(SMALL, kind=kind, limit=None, ood=0.0)

    def images(parts):  # of domains, the first has plain images
        return {tuple(x.flatten().tolist()) for part in parts for x in part}

    measured, tuning = stream_of(config, 0), stream_of(config, 10_003)
    held_out = images(task.held_x for task in measured.tasks[: 1 if kind == "domain" else 5])
    seen = images([task.x for task in tuning.tasks] + [task.held_x for task in tuning.tasks])
    assert len(held_out) > 100 and not held_out & seen
    assert len(measured.tasks[0].held_y) > len(tuning.tasks[0].held_y) > 0


def test_a_stopped_comparison_resumes_to_the_same_matrices(tmp_path, monkeypatch):
    whole = compare(SMALL, tmp_path / "whole")
    import nested.continual.experiment as experiment

    train, done = experiment.train, []

    def stop(job, config):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(job)
        return train(job, config)

    monkeypatch.setattr(experiment, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(SMALL, tmp_path / "part")
    with pytest.raises(ValueError, match="holds runs: take --resume, or another --out"):
        compare(SMALL, tmp_path / "part")
    monkeypatch.setattr(
        experiment, "train", lambda job, config: done.append(job) or train(job, config)
    )
    resumed = compare(SMALL, tmp_path / "part", resume=True)
    assert len(done) == 12 and len(set(done)) == 12
    assert resumed.settings == whole.settings
    for name, results in whole.results.items():
        for a, b in zip(results, resumed.results[name], strict=True):
            assert a.matrix.equal(b.matrix) and a.moves == b.moves
    with pytest.raises(ValueError, match="have other settings"):
        compare(replace(SMALL, blur=0.2), tmp_path / "part", resume=True)


def test_processes_side_by_side_measure_the_same(tmp_path):
    pytest.importorskip("joblib", reason="pip install joblib")
    one, two = compare(SMALL, tmp_path / "1"), compare(SMALL, tmp_path / "2", jobs=2)
    assert one.settings == two.settings
    for name in one.results:
        for a, b in zip(one.results[name], two.results[name]):
            assert torch.allclose(a.matrix, b.matrix, atol=0.02)


@pytest.mark.parametrize("name", STRATEGIES)
def test_convolutions_work_with_every_strategy(name):
    config = replace(PRESETS["realistic"], net="conv", width=4, limit=6, tasks=2)
    stream = stream_of(config, 0)
    strategy = new_strategy(Job(name, (), 0), stream, config)
    for x, y, _ in stream:
        strategy.observe(x, y)
    strategy.end_task(0)
    assert strategy.logits(stream.held_out(0)[0]).isfinite().all()


@pytest.mark.parametrize("name", ["si", "continuum", "nested", "meta-learned"])
def test_activation_checkpointing_changes_no_number(name):
    config = replace(PRESETS["realistic"], net="conv", width=4, limit=6, tasks=2)
    plain, again = (
        train(Job(name, (), 0), replace(config, checkpointing=is_on)) for is_on in (False, True)
    )
    assert plain.matrix.equal(again.matrix) and plain.numbers == again.numbers


def test_activation_checkpointing_stores_only_what_goes_into_each_part():
    x, sizes = torch.randn(8, 6), []
    for is_on in (False, True):
        net = build_net((6,), 3, width=16)
        net = Checkpointed(OrderedDict(net.named_children())) if is_on else net
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            loss = net(x).square().mean()
        loss.backward()
        sizes.append(len(kept))
    assert sizes[1] < sizes[0]


def test_half_precision_runs():
    from nested.continual import Strategy, run

    config = replace(SMALL, tasks=2)
    stream = stream_of(config, 0)
    result = run(Strategy(build_net(stream.shape, 10)), stream, precision="bfloat16")
    assert result.matrix.isfinite().all()


def test_the_command_writes_a_report_and_pictures(tmp_path, capsys):
    assert main([*FLAGS, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| nested |" in printed and "out of distribution" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["matrices"]["nested"]) == 2 and report["config"]["blur"] == 0.1
    assert set(report["table"]["replay"]) >= {
        "accuracy",
        "forgetting",
        "CPU seconds",
        "numbers",
        "KiB",
    }
    assert "More than the 10,232 numbers" not in printed
    assert "Differences to " in printed and "| minus " in printed
    for name in ("matrices", "accuracy", "moves", "stream"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| replay |" in (tmp_path / "report.md").read_text()


def test_who_stores_more_than_the_budget_is_named(tmp_path, capsys):
    flags = [*FLAGS, "--strategies", "si", "replay", "joint", "--examples", "0"]
    assert main([*flags, "--out", str(tmp_path)]) == 0
    assert "\nMore than the 6,932 numbers of the others: " in capsys.readouterr().out
    assert "of the others: joint, si.\n" in (tmp_path / "report.md").read_text()


def test_of_settings_as_accurate_as_the_best_those_win_that_forget_least():
    def known(table):
        return {
            Job("replay", settings, seed): Result(
                torch.tensor([[best, 0.0], [2 * share - 0.5, 0.5]]), None, 0, 0, 0, {}
            )
            for settings, pairs in table.items()
            for seed, (share, best) in enumerate(pairs)
        }

    # accuracy, and the best accuracy of the first task; settings b differ from a by 0.02 +- 0.04
    table = {
        "a": [(0.70, 1.0), (0.60, 1.0), (0.50, 1.0)],
        "b": [(0.64, 0.8), (0.62, 0.8), (0.48, 0.8)],
        "c": [(0.66, 0.7), (0.56, 0.7), (0.46, 0.7)],
    }
    assert _best("replay", list(table), range(3), known(table)) == "b"  # c is 0.04 behind, always
    one = {settings: pairs[:1] for settings, pairs in table.items()}
    assert _best("replay", list(one), range(1), known(one)) == "a"


def test_a_cluster_measures_the_same_in_rounds(tmp_path, monkeypatch):
    """In place of ray stands a backend that has no generator of results either."""
    joblib = pytest.importorskip("joblib", reason="pip install -e .[continual]")
    from joblib.parallel import LokyBackend

    class NoGenerator(LokyBackend):
        supports_return_generator = False

    def register_ray():
        joblib.register_parallel_backend("ray", NoGenerator)

    for name in ("ray", "ray.util", "ray.util.joblib"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(register_ray=register_ray))
    one = compare(SMALL, tmp_path / "one")
    monkeypatch.setattr("nested.continual.experiment.ROUND", 2)
    many = compare(SMALL, tmp_path / "many", jobs=2, backend="ray")
    assert many.settings == one.settings
    for name, results in one.results.items():
        assert all(a.matrix.equal(b.matrix) for a, b in zip(results, many.results[name]))


def test_all_settings_get_a_quarter_of_the_streams_and_the_best_quarter_the_rest(tmp_path):
    config = replace(SMALL, strategies=("fine-tuning",), trials=8, tuning_seeds=8, seeds=1)
    comparison = compare(config, tmp_path)
    runs = load_checkpoint(tmp_path / "runs.pt")["runs"]
    streams, shares = {}, {}
    for _, settings, seed, result in runs:
        if seed >= 10_000:
            streams.setdefault(str(settings), set()).add(seed - 10_000)
            shares.setdefault(str(settings), []).append(average_accuracy(result[0]))
    few = [name for name, seeds in streams.items() if seeds == {0, 1}]
    many = [name for name, seeds in streams.items() if seeds == set(range(8))]
    assert (len(few), len(many)) == (6, 2)
    means = {name: sum(values[:2]) for name, values in shares.items()}
    assert min(means[name] for name in many) >= max(means[name] for name in few)
    assert str([["lr", comparison.settings["fine-tuning"]["lr"]]]) in many


def test_more_trials_and_streams_keep_the_runs_that_are_there(tmp_path, monkeypatch):
    import nested.continual.experiment as experiment

    whole = compare(replace(SMALL, trials=3, tuning_seeds=2), tmp_path / "whole")
    compare(SMALL, tmp_path / "part")
    before = load_checkpoint(tmp_path / "part" / "runs.pt")["runs"]
    train, done = experiment.train, []
    monkeypatch.setattr(
        experiment, "train", lambda job, config: done.append(job) or train(job, config)
    )
    more = compare(replace(SMALL, trials=3, tuning_seeds=2), tmp_path / "part", resume=True)
    assert more.settings == whole.settings
    assert len(done) + len(before) == len(load_checkpoint(tmp_path / "part" / "runs.pt")["runs"])
    assert len(done) <= 3 * (4 + 2)  # four tuning runs of each strategy, and new final ones


def test_a_limit_keeps_examples_of_every_domain():
    config = replace(SMALL, data="glyphs", kind="domain", limit=20)
    stream = stream_of(config, 0)
    counts = torch.stack([task.y.bincount(minlength=len(stream.names)) for task in stream.tasks])
    assert len(stream) == 5 and counts.sum(0).eq(20).all() and counts.sum(1).min() > 20


def test_numbers_near_an_end_of_their_range_are_named():
    comparison = Comparison({"replay": {"lr": 0.95, "weight": 0.5}, "lwf": {"strength": 0.11}}, {})
    assert near_an_end(comparison) == "replay: lr 0.95, lwf: strength 0.11"
    assert near_an_end(Comparison({"replay": {"lr": 0.3, "weight": 0.5}}, {})) == ""


def test_differences_are_those_on_the_same_streams():
    def results(*accuracies):
        return [Result(torch.tensor([[0.9, 0.0], [x, 0.5]]), None, 0, 0, 0, {}) for x in accuracies]

    comparison = Comparison({}, {"a": results(0.1, 0.3, 0.5), "b": results(0.3, 0.5, 0.7)})
    assert "| a | -0.100 ± 0.000 | +0.200 ± 0.000 |\n" in differences(comparison, "b")
    comparison = Comparison({}, {"a": results(0.1, 0.3, 0.5), "b": results(0.3, 0.3, 0.3)})
    half = 4.303 * 0.1 / 3**0.5  # Student's t, of the halves of the differences
    assert f"0.000 ± {half:.3f} | " in differences(comparison, "b")


def test_a_budget_may_be_larger_than_everything(tmp_path):
    assert main([*FLAGS, "--examples", str(10**15), "--out", str(tmp_path)]) == 0


def test_settings_come_from_a_file_and_flags_change_them(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "settings.yaml"
    path.write_text("strategies: [replay]\nlimit: 20\nseeds: 1\ntrials: 1\ntuning_seeds: 1\n")
    assert main(["--config", str(path), "--tasks", "2", "--out", str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "report.json").read_text())["config"]
    assert (config["tasks"], config["strategies"], config["limit"]) == (2, ["replay"], 20)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--strategies", "magic"], "there is no strategy 'magic'; strategies: fine-tuning"),
        (["--preset", "odd"], "a preset is one of easy, realistic, hard, but got 'odd'"),
        (["--data", "mnist"], "data is one of digits"),
        (["--data", "fashion", "--path", "nowhere"], "there is no train-images-idx3-ubyte"),
        (["--data", "folder"], "there is no folder of images at None"),
        (["--path", "here"], "digits come with the package, so they take no path"),
        (["--kind", "order"], "kind is one of class, domain, task, mixed, but got 'order'"),
        (["--tasks", "11"], "10 classes cannot be split into 11 tasks"),
        (["--blur", "1.5"], "blur is a share from 0 to below 1"),
        (["--blur", "0.6"], "leave a task without examples"),
        (["--jobs", "0"], "jobs is a whole number from 1, but got 0"),
        (["--seeds", "0"], "seeds is a whole number from 1, but got 0"),
        (["--net", "rnn"], "net is one of mlp, conv, but got 'rnn'"),
        (["--device", "tpu"], "device"),
        (["--strategies", "replay", "replay"], "strategies are one or more, each once"),
        (["--copies", "inf"], "copies are a number from 0 to 1000"),
        (["--copies", "nan"], "copies are a number from 0 to 1000"),
        (["--seed", "9999"], "streams from 10000 on are for tuning: take a lower seed"),
        (["--kind", "task"], "take blur 0 and interference 0, or the kind 'class'"),
        (["--precision", "float16"], "precision is one of float32, bfloat16"),
        (["--config", "none.yaml"], "cannot read settings from"),
    ],
)
def test_a_users_mistake_is_one_sentence(flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*FLAGS, *flags, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    import signal
    import time

    command = [sys.executable, "-m", "nested.continual", "--out", str(tmp_path), "--limit", "50"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "runs.pt").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "--resume" in error and "Traceback" not in error
    assert len(load_checkpoint(tmp_path / "runs.pt")["runs"]) > 0
