"""The command that teaches a rule: what it saves works, it goes on, it says what is wrong."""

import pytest
import torch

from nested import race
from nested.meta.tuned import TUNED
from nested.rules import LearnedOptimizer, load_rule, read_card, train
from nested.tasks import Digits


def test_a_few_seconds_of_it_beat_tuned_adam_at_twenty_steps(tmp_path, capsys):
    assert train.main(["--quick", "--out", str(tmp_path / "rule.safetensors")]) == 0
    assert "Saved" in capsys.readouterr().out
    rule = load_rule(tmp_path / "rule.safetensors")
    baselines = {"Adam": TUNED["Adam"]}
    result = race({"the rule": rule}, Digits(), 20, tasks=32, tuning_tasks=8, baselines=baselines)
    paired = result.paired("the rule", "Adam")
    assert paired.mean > 5 * paired.error
    card = read_card(tmp_path / "rule.safetensors")
    assert (
        card["command"].startswith("python -m nested.rules.train") and "--quick" in card["command"]
    )
    net = torch.nn.Linear(64, 10)
    path = str(tmp_path / "rule.safetensors")
    LearnedOptimizer.from_pretrained(path, net.parameters(), total_steps=5)


def test_what_it_is_taught_on_and_what_is_held_out_do_not_meet():
    taught = {train._describe(family) for family in train.curriculum()}
    assert not taught & {train._describe(family) for family in train.transfer().values()}


def test_a_stopped_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "QUICK", {"meta_steps": 4, "max_horizon": 40})
    out = str(tmp_path / "rule.safetensors")
    flags = ["--quick", "--out", out]
    usual = train.run_training

    def stop(*parts, on_step, **how):
        def watch(history):
            on_step(history)
            if len(history.records) == 3:
                raise KeyboardInterrupt

        return usual(*parts, on_step=watch, **how)

    monkeypatch.setattr(train, "run_training", stop)
    assert train.main(flags) == 130 and "--resume" in capsys.readouterr().out
    monkeypatch.setattr(train, "run_training", usual)
    assert train.main([*flags, "--resume"]) == 0
    resumed = load_rule(out)
    assert train.main(["--quick", "--out", str(tmp_path / "whole.safetensors")]) == 0
    whole = load_rule(tmp_path / "whole.safetensors")
    for p, q in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("flags", [["--steps", "0"], ["--seed", "-1"]])
def test_wrong_flags_are_answered_in_one_line(flags, tmp_path, capsys):
    assert train.main([*flags, "--out", str(tmp_path / "rule.safetensors")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(train, "curriculum", lambda: [Digits(hidden=4), Digits(hidden=6)])
    monkeypatch.setattr(train, "WHOLE", {"unroll_length": 2, "max_horizon": 8, "groups": 2})
    for name, value in {"TRIAL_EVERY": 2, "TRIAL_TASKS": 2, "TRIAL_STEPS": 5}.items():
        monkeypatch.setattr(train, name, value)


def test_the_rule_that_is_saved_is_the_best_in_trials(small, monkeypatch, tmp_path):
    out, scores, usual = tmp_path / "rule.safetensors", {}, train.run_training

    def spied(training, *parts, on_step):
        def watch(history):
            on_step(history)
            draws = [train._trial(family, 0) for family in train.curriculum()]
            scores[len(history.records)] = (
                sum(train._score(training.rule, draw) for draw in draws) / 2
            )

        return usual(training, *parts, on_step=watch)

    monkeypatch.setattr(train, "run_training", spied)
    assert train.main(["--steps", "7", "--out", str(out)]) == 0
    tried = {step: scores[step] for step in (2, 4, 6, 7)}
    card = read_card(out)
    assert card["log loss in trials"] == pytest.approx(min(tried.values()))
    assert tried[card["meta-steps"]] == min(tried.values())
    draws = [train._trial(family, 0) for family in train.curriculum()]
    again = sum(train._score(load_rule(out), draw) for draw in draws) / 2
    assert again == pytest.approx(card["log loss in trials"], rel=1e-5)


def test_a_worse_rule_does_not_take_the_place_of_a_better_one(small, monkeypatch, tmp_path):
    out = tmp_path / "rule.safetensors"
    scores = iter([2.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr(train, "_score", lambda rule, draw: next(scores))
    monkeypatch.setattr(train, "curriculum", lambda: [Digits(hidden=4)])
    assert train.main(["--steps", "7", "--out", str(out)]) == 0
    assert read_card(out)["meta-steps"] == 4
    kept = out.read_bytes()
    monkeypatch.setattr(train, "_score", lambda rule, draw: 1.5)
    assert train.main(["--steps", "7", "--out", str(out), "--resume"]) == 0
    assert out.read_bytes() == kept  # also after a resume
    monkeypatch.setattr(train, "_score", lambda rule, draw: float("inf"))
    assert train.main(["--steps", "7", "--out", str(out)]) == 0
    assert read_card(out)["meta-steps"] == 7  # a new training starts anew
