"""Every lesson runs, and prints numbers in the range that its prose claims."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.lessons
EXAMPLES = Path(__file__).parent.parent / "examples"


def run_lesson(name, folder, **how):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    lesson = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lesson)
    numbers = lesson.main(folder, **how)
    picture = folder / f"lesson_{name[:2]}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    return numbers


def test_lesson_01_a_learning_rate_has_a_gradient(tmp_path):
    numbers = run_lesson("01_one_step", tmp_path)
    assert numbers["autograd"] == pytest.approx(numbers["by_hand"], rel=1e-10)
    assert numbers["autograd"] == pytest.approx(numbers["wiggling"], rel=1e-5)
    assert numbers["autograd"] < 0 and numbers["last_lr"] > 0.5
    assert numbers["last_loss"] < numbers["first_loss"] - 0.03


def test_lesson_02_further_ahead_the_best_learning_rate_is_larger(tmp_path):
    numbers = run_lesson("02_k_steps", tmp_path)
    rates = [numbers[f"lr_{steps}"] for steps in (1, 3, 10, 30)]
    assert rates == sorted(rates) and rates[-1] > 1.2 * rates[0]
    assert numbers["random_start"] < 0.35 and numbers["learned_start"] > 0.7


def test_lesson_03_feedback_pays_where_runs_differ(tmp_path):
    numbers = run_lesson("03_learning_to_learn", tmp_path, quick=True)
    assert -0.02 < numbers["gain, all images alike"] < 0.08
    assert numbers["gain, contrast from 1/3 to 3"] > 0.12
    assert numbers["errors, contrast from 1/3 to 3"] > 3
    assert numbers["over clock, contrast from 1/3 to 3"] > 0.08


def test_lesson_04_short_windows_lower_the_rate_too_soon_and_pes_does_not(tmp_path):
    numbers = run_lesson("04_too_short_a_horizon", tmp_path)
    falls = [numbers[f"fall, {window}"] for window in (1, 5, 20, 100)]
    losses = [numbers[f"loss, {window}"] for window in (1, 5, 20, 100)]
    assert falls == sorted(falls, reverse=True) and falls[0] > 1.3 * falls[-1]
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1] + 0.01
    assert all(abs(numbers[f"PES at {fall}, errors off"]) < 3.5 for fall in (0.3, 0.8, 1.3))


def test_lesson_05_the_rule_is_faster_than_tuned_adam(tmp_path):
    numbers = run_lesson("05_a_rule_per_coordinate", tmp_path, quick=True)
    assert numbers["right"] > 0.9
    assert numbers["speed-up, 20"] >= 2.0
    assert numbers["the rule, unseen, 20"] < 0.9 * numbers["Adam, unseen, 20"]


def test_lesson_06_what_a_memory_forgets_depends_on_its_key(tmp_path):
    numbers = run_lesson("06_optimizers_are_memories", tmp_path, seeds=2)
    assert numbers["momentum is a minimiser"] < 1e-7 and numbers["Adam is a minimiser"] < 1e-6
    # five steps after the turn
    assert (
        abs(numbers["delta, unit key, same inputs"]) < 0.02 < 0.5 < numbers["momentum, same inputs"]
    )
    assert numbers["delta, unit key, other inputs"] > 0.5 and numbers["M3, same inputs"] > 0.8
    order = "in random order"
    assert numbers[f"delta, unit key, {order}"] < 0.95 * numbers[f"momentum, {order}"]
    assert numbers[f"DGD, {order}"] > 1.55
    order = "sorted by class"
    assert numbers[f"M3, {order}"] < numbers[f"Muon, {order}"] - 0.1
    assert numbers[f"Muon, {order}"] < numbers[f"momentum, {order}"] - 0.1


def test_lesson_07_linear_attention_is_gradient_descent(tmp_path):
    numbers = run_lesson("07_fast_weights", tmp_path)
    assert numbers["against gradient descent"] < 1e-13 and numbers["against attention"] < 1e-13
    once, again = "every key comes once", "half of the keys come again"
    for pairs in (2, 8, 16):
        delta, attention = (
            f"{name}, {pairs} pairs, " for name in ("delta rule", "linear attention")
        )
        assert numbers[delta + once] < numbers[attention + once]
        assert numbers[delta + again] < numbers[delta + once] + 0.1
        assert numbers[attention + again] > numbers[attention + once] + 0.3


def test_lesson_08_slow_levels_hold_what_fast_ones_have_lost(tmp_path):
    numbers = run_lesson("08_clocks", tmp_path)
    old, new = (
        [numbers[f"{what} after, {period}"] for period in (4, 16, 64, 256)]
        for what in ("old", "new")
    )
    assert all(numbers[f"old before, {period}"] < 0.02 for period in (4, 16, 64, 256))
    assert old[0] > 1 and old == sorted(old, reverse=True) and old[-1] < 0.5
    assert new[0] < 0.02 and new == sorted(new) and new[-1] > 0.5


def test_every_lesson_has_a_test():
    lessons = sorted(path.stem for path in EXAMPLES.glob("[0-9]*.py"))
    tests = Path(__file__).read_text()
    assert lessons and all(f'run_lesson("{name}"' in tests for name in lessons)
