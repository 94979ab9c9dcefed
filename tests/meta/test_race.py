"""The race is fair: baselines are torch.optim's own runs, replays are blind, tasks are unseen."""

import math

import pytest
import torch

from nested import MetaOptimizer, race
from nested.meta.baselines import (
    HandMade,
    draw_tasks,
    run_hand_made,
    scheduled_sgd,
    tune,
)
from nested.meta.history import MetaHistory, MetaRecord
from nested.meta.race import Entry, RaceResult, own_schedule
from nested.meta.report import compare, draw_report, table, verdict
from nested.meta.tuned import BASELINES
from nested.tasks import ByteRNN, Digits, Quadratics
from nested.unroll.over_tasks import pick_task
from tests.problems import generator

FEW = {"tasks": 6, "tuning_tasks": 3}


def run_alone(hand_made, draw, task):
    """One task by an ordinary PyTorch loop."""
    params = {n: p.clone().requires_grad_() for n, p in pick_task(draw.params, task).items()}
    optimizer = hand_made.optimizer(list(params.values()), **hand_made.at(0))
    losses = []
    for step, batch in enumerate(draw.batches):
        loss = draw.loss_fn(params, pick_task(batch, task))
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0].update(hand_made.at(step))
        optimizer.step()
        losses.append(loss.item())
    return [*losses, draw.loss_fn(params, pick_task(draw.query, task)).item()]


@pytest.mark.parametrize(
    "grid",
    [
        [
            scheduled_sgd([0.3, 0.2, 0.1, 0.05], [0.9, 0.8, 0.7, 0.6]),
            scheduled_sgd([0.1] * 4, [0] * 4),
        ],
        BASELINES["Nesterov"](4)[10:12],
        BASELINES["RMSprop"](4)[20:22],
        BASELINES["Adam"](4)[20:22],
    ],
)
def test_candidates_and_tasks_run_together_as_they_would_alone(grid):
    draw = draw_tasks(Digits(), 3, 4, generator())
    together = run_hand_made(grid, draw).losses
    assert together.shape == (2, 3, 5)
    for c, hand_made in enumerate(grid):
        for task in range(3):
            alone = torch.tensor(run_alone(hand_made, draw, task))
            torch.testing.assert_close(together[c, task], alone, rtol=1e-4, atol=1e-5)


def test_grids_have_the_sizes_they_claim_and_no_doubles():
    sizes = {name: len({g.describe() for g in grid(20)}) for name, grid in BASELINES.items()}
    assert sizes == dict(zip(BASELINES, (42, 64, 28, 30, 40)))


def test_tuning_finds_the_best_and_never_a_diverged_one():
    draw = draw_tasks(Quadratics(), 4, 10, generator())
    grid = [HandMade(torch.optim.SGD, {"lr": lr}) for lr in (1e30, 1e-5, 0.3, 1e-4)]
    assert tune(grid, draw).settings == {"lr": 0.3}


def test_a_replay_averages_lr_geometrically_and_momentum_plainly():
    lr, momentum = torch.tensor([[0.1, 1.0], [0.4, 1.0]]), torch.tensor([[0.2, 0.5], [0.4, 0.5]])
    entry = Entry(torch.zeros(2, 3), None, {"lr": lr, "momentum": momentum}, "")
    schedule = own_schedule(entry).schedule
    assert schedule["lr"] == pytest.approx([math.sqrt(0.1 * 0.4), 1.0])
    assert schedule["momentum"] == pytest.approx([0.3, 0.5])


def test_a_rule_that_reacts_to_nothing_equals_its_replay():
    rule = MetaOptimizer(context=("log_step",))
    result = race({"rule": rule}, Digits(), 8, **FEW, baselines={})
    losses = [result.entries[name].losses for name in ("rule", "rule, replayed")]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def test_everyone_starts_from_the_same_weights_on_held_out_tasks():
    class Watched(Quadratics):
        sides = []

        def sample(self, generator):
            self.sides.append(self.is_held_out)
            return super().sample(generator)

        def held_out(self):
            return Watched(is_held_out=True)

    result = race({"rule": MetaOptimizer()}, Watched(), 5, **FEW)
    assert sum(Watched.sides) == 6 and len(Watched.sides) == 9
    starts = [entry.losses[:, 0] for entry in result.entries.values()]
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert list(result.entries) == ["rule", "rule, replayed", *BASELINES]
    assert set(result.tuned) == set(BASELINES)


def test_the_same_seed_gives_the_same_race_and_another_other_tasks():
    def losses(seed):
        result = race({"rule": MetaOptimizer()}, Digits(), 3, **FEW, baselines={}, seed=seed)
        return result.entries["rule"].losses

    assert torch.equal(losses(0), losses(0)) and not torch.equal(losses(0), losses(1))


def test_a_race_tunes_and_runs_for_its_own_horizon_and_scores_on_query_data(monkeypatch):
    """A spy counts what is drawn: K train batches and one query batch for each task."""
    drawn = []

    class Spied(Quadratics):
        def sample(self, generator):
            task = super().sample(generator)
            task_type = type(task)

            class SpiedTask(task_type):
                def batch(self, generator, split="train"):
                    drawn.append((self.family.is_held_out, split))
                    return super().batch(generator, split)

            return SpiedTask(task.family, task.curvature, task.centre)

        def held_out(self):
            return Spied(is_held_out=True)

    race({"rule": MetaOptimizer()}, Spied(), 33, **FEW)
    counts = {key: drawn.count(key) for key in set(drawn)}
    assert counts == {
        (False, "train"): 33 * 3,
        (False, "query"): 3,
        (True, "train"): 33 * 6,
        (True, "query"): 6,
    }


def test_tuning_goes_by_the_mean_over_all_updates():
    """A large step is soon at the noise floor of a bowl, a small one ends lower but comes late."""
    draw = draw_tasks(Quadratics(noise=1.0, curvature=(1.0, 1.0)), 40, 12, generator())
    grid = [HandMade(torch.optim.SGD, {"lr": lr}) for lr in (0.1, 0.2, 0.4, 0.6)]
    losses = run_hand_made(grid, draw).losses
    best = losses[..., 1:].mean(dim=(1, 2)).argmin().item()
    assert tune(grid, draw) is grid[best]
    assert losses[..., -1].mean(dim=1).argmin().item() != best, "else this test could not fail"


def test_tuning_and_race_draw_different_streams():
    from nested.meta.race import _generator

    streams = [torch.rand(4, generator=_generator(0, p)) for p in ("tuning", "race")]
    streams.append(torch.rand(4, generator=generator(0)))
    assert all(not torch.equal(a, b) for a, b in zip(streams, streams[1:] + streams[:1]))


def test_a_rules_accuracy_is_that_of_its_final_weights():
    rule = MetaOptimizer()
    accuracies = [
        race({"rule": rule}, Digits(), horizon, **FEW, baselines={}).estimate("rule", "accuracy")
        for horizon in (1, 120)
    ]
    assert accuracies[1].mean > accuracies[0].mean + 0.2


def test_a_score_that_does_not_exist_is_refused():
    result = made_up(1.0, Adam=0.8)
    for what in ("men", "accuracy"):
        with pytest.raises(ValueError, match="a race has mean, final and"):
            result.estimate("rule", what)


def test_accuracy_counts_right_answers_and_is_absent_for_regression():
    sgd = {"sgd": HandMade(torch.optim.SGD, {"lr": 0.3, "momentum": 0.8})}
    entry = race(sgd, Digits(), 150, **FEW, baselines={}).entries["sgd"]
    assert entry.accuracy.shape == (6,) and 0.6 < entry.accuracy.mean() <= 1
    assert race(sgd, Quadratics(), 5, **FEW, baselines={}).entries["sgd"].accuracy is None
    text = ByteRNN(hidden=4, batch_size=4, length=6)  # several answers a row
    entry = race(sgd, text, 2, **FEW, baselines={}).entries["sgd"]
    assert entry.accuracy.shape == (6,) and 0 <= entry.accuracy.mean() < 0.5


@pytest.mark.parametrize("wrong", [{"horizon": 0}, {"tasks": 1}, {"tuning_tasks": 0}])
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="whole number from"):
        race({"rule": MetaOptimizer()}, Quadratics(), **{"horizon": 5, **FEW, **wrong})


def made_up(rule_mean, horizon=4, **others):
    def entry(mean):
        wobble = torch.tensor([[0.9], [1.0], [1.1]])
        signals = {"lr": torch.full((3, horizon), 0.1), "momentum": torch.full((3, horizon), 0.5)}
        return Entry(mean * wobble.expand(3, horizon + 1), None, signals, "")

    entries = {"rule": entry(rule_mean), **{name: entry(mean) for name, mean in others.items()}}
    return RaceResult(horizon, entries, {})


OTHERS = {
    "rule, replayed": 1.5,
    "learned schedule": 1.25,
    "best constant": 2.0,
    "best decay": 1.25,
    "Adam": 0.8,
}


def test_estimates_are_means_and_standard_errors_over_tasks():
    result = made_up(1.0, Adam=0.8)
    assert result.estimate("rule") == pytest.approx((1.0, 0.1 / math.sqrt(3)))
    assert result.paired("rule", "Adam") == pytest.approx((-0.2, 0.02 / math.sqrt(3)))
    assert result.gain("rule", "Adam") == pytest.approx(1 - 1 / 0.8)
    mean, error = result.curve("rule")
    assert mean[0] == pytest.approx(1.0) and error[0] == pytest.approx(0.1 / math.sqrt(3))


def test_the_verdict_says_what_the_numbers_say():
    reacts = verdict(made_up(1.0, **OTHERS), made_up(1.0, 20, **OTHERS), "rule")
    assert reacts.startswith("At 4 steps the rule beats the learned schedule by 20%.")
    assert "beats the best constant by 50%" in reacts
    assert "beats its own average schedule, replayed blindly, by 33%" in reacts
    assert "it reacts" in reacts and "loses to Adam by 25%" in reacts
    schedule = {**OTHERS, "learned schedule": 1.0, "best constant": 0.5}
    plain = verdict(made_up(1.0, **schedule), made_up(1.0, 20, **schedule), "rule")
    assert "loses to the best constant by 100%" in plain
    assert "ties with the learned schedule" in plain
    assert "no better than a schedule" in plain
    worse = verdict(
        made_up(1.0, **{**OTHERS, "learned schedule": 0.9}), made_up(1.0, 20, **OTHERS), "rule"
    )
    assert "loses to the learned schedule by 11%" in worse and "worse than a schedule" in worse


def test_a_run_that_diverged_is_called_so():
    broken = made_up(float("nan"), **OTHERS)
    text = verdict(broken, made_up(1.0, 20, **OTHERS), "rule")
    assert "diverges on some tasks" in text and "these tasks do not show" in text
    assert compare(made_up(1.0, Adam=float("inf")), "rule", "Adam") == (
        "beats Adam, which diverges on some tasks"
    )


def test_a_noisy_rival_is_no_evidence_of_a_schedule():
    noisy = made_up(1.0, **OTHERS)
    far_apart = torch.tensor([[0.1], [1.0], [9.0]]).expand(3, 5)
    noisy.entries["learned schedule"].losses.copy_(far_apart)
    assert "these tasks do not show" in verdict(noisy, made_up(1.0, 20, **OTHERS), "rule")


def test_comparisons_need_two_standard_errors():
    noisy = made_up(1.0, Adam=1.0)
    noisy.entries["Adam"].losses.copy_(torch.tensor([[0.5], [1.2], [1.6]]).expand(3, 5))
    assert compare(noisy, "rule", "Adam") == "ties with Adam"


def test_only_the_rules_named_are_replayed():
    rules = {"a": MetaOptimizer(), "b": MetaOptimizer(context=("log_step",))}
    result = race(rules, Quadratics(), 3, **FEW, baselines={}, replay=["a"])
    assert list(result.entries) == ["a", "a, replayed", "b"]


def test_the_table_has_everyone_best_first_also_when_somebody_diverged():
    result = made_up(1.0, **OTHERS, broken=float("nan"))
    lines = table(result, "rule").splitlines()[2:]
    assert [line[:20].split("  ")[0] for line in lines] == [
        "Adam", "rule", "learned schedule", "best decay", "rule, replayed", "best constant",
        "broken",
    ]  # fmt: skip
    assert result.summary("rule")["entries"]["Adam"]["mean"]["mean"] == pytest.approx(0.8)


def test_the_picture_is_drawn_with_and_without_a_history(tmp_path):
    window = {"grad_norm": 0.1, "skipped": False, "signals": {"lr": 0.1, "momentum": 0.5}}
    records = [MetaRecord(1, 0, 2.0, **window), MetaRecord(2, 10, 1.0, **window)]
    races = [made_up(1.0, **OTHERS, untrained=2.5), made_up(1.0, 20, **OTHERS)]
    few = made_up(1.0, untrained=2.0, Adam=0.8)
    for name, shown, history in (("a", [few], []), ("b", [few], records), ("c", races, records)):
        path = tmp_path / f"{name}.png"
        draw_report(path, shown, MetaHistory(history), "rule", title="a test")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_an_entrant_named_as_a_baseline_is_refused():
    with pytest.raises(ValueError, match="names of baselines"):
        race({"Adam": MetaOptimizer()}, Quadratics(), 2, tasks=2, tuning_tasks=1)


def test_no_tasks_to_draw_are_refused():
    with pytest.raises(ValueError, match="tasks is a whole number from 1"):
        draw_tasks(Quadratics(), 0, 2, torch.Generator())
