"""Speed-ups are counted as by hand; baselines move as torch.optim's own."""

import pytest
import torch
from torch import nn

from nested.meta.baselines import HandMade, draw_tasks, run_hand_made, smoothed, tune
from nested.meta.race import Entry, RaceResult
from nested.meta.speed_up import final_loss, speed_up
from nested.meta.tuned import TUNED, MuonOfTasks
from nested.tasks import Digits, Quadratics
from tests.problems import generator


def result(**curves):
    """Curves (T, K), and a query loss that must not count."""
    entries = {}
    for name, losses in curves.items():
        losses = torch.as_tensor(losses)
        with_query = torch.cat([losses, torch.full((len(losses), 1), -1.0)], dim=1)
        entries[name] = Entry(with_query, None, {}, "")
    return RaceResult(len(losses[0]), entries, {})


def test_smoothing_is_the_mean_over_the_last_twentieth():
    curve = torch.arange(40.0)
    by_hand = [(curve[max(0, k - 1)] + curve[k]).item() / 2 for k in range(40)]
    assert smoothed(curve).tolist() == pytest.approx(by_hand)
    assert torch.equal(smoothed(curve[:20]), curve[:20].double())


def test_twice_as_fast_is_2_and_never_there_is_0():
    k = torch.arange(100.0)
    slow, fast, stuck = 100 - k, 100 - 2 * k, 60 - 0.1 * k
    raced = result(slow=slow.expand(4, -1), fast=fast.expand(4, -1), stuck=stuck.expand(4, -1))
    assert speed_up(raced, "fast", "slow").value == pytest.approx(2, rel=0.05)
    assert speed_up(raced, "slow", "slow") == (1, 1, 1)
    assert speed_up(raced, "stuck", "slow") == (0, 0, 0)
    assert final_loss(raced, "slow") == pytest.approx((1 + 2 + 3 + 4 + 5) / 5)


def test_intervals_span_tasks_that_differ_and_are_seeded():
    k = torch.arange(100.0)
    slow = (100 - k).expand(8, -1)
    mixed = torch.stack([100 - (1 + t % 3) * k for t in range(8)])
    raced = result(slow=slow, mixed=mixed)
    found = speed_up(raced, "mixed", "slow")
    assert found.low < found.value < found.high and found.low > 1
    assert speed_up(raced, "mixed", "slow") == found


def test_muon_of_tasks_is_torchs_on_each_task():
    g = generator()
    weights = {"w": torch.randn(3, 4, 5, generator=g), "b": torch.randn(3, 4, generator=g)}
    grads = [{n: torch.randn(p.shape, generator=g) for n, p in weights.items()} for _ in range(4)]
    together = {n: p.clone() for n, p in weights.items()}
    optimizer = MuonOfTasks(list(together.values()), lr=0.1)
    for step in grads:
        for n, p in together.items():
            p.grad = step[n]
        optimizer.step()
    for t in range(3):
        w, b = (nn.Parameter(weights[n][t].clone()) for n in ("w", "b"))
        how = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        parts = [torch.optim.Muon([w], 0.1, **how), torch.optim.AdamW([b], 0.1, weight_decay=0.0)]
        for step in grads:
            w.grad, b.grad = step["w"][t], step["b"][t]
            for part in parts:
                part.step()
        assert torch.equal(w, together["w"][t])
        assert torch.allclose(b, together["b"][t], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", TUNED)
def test_each_baseline_has_both_schedules_and_lowers_the_loss(name):
    grid = TUNED[name](10)
    decays = [c.schedule["lr"] for c in grid if c.schedule]
    constants = [c.settings["lr"] for c in grid if not c.schedule]
    assert len(constants) == len(decays) == len(grid) // 2
    assert sorted(constants) == sorted(rates[0] for rates in decays)
    assert all(rates[-1] < 0.1 * rates[0] for rates in decays)
    draw = draw_tasks(Digits(), 2, 10, generator())
    best = tune(grid, draw, "final")
    losses = run_hand_made([best], draw).losses[0].mean(0)
    assert losses[-1] < 0.9 * losses[0]


def test_what_is_chased_decides_which_settings_are_best():
    """A rate that learns fast and then bounces wins by its mean, a small one by its end."""
    draw = draw_tasks(Quadratics(noise=0.5), 16, 60, generator())
    grid = [HandMade(torch.optim.SGD, {"lr": lr}) for lr in (0.1, 0.5)]
    losses = run_hand_made(grid, draw).losses.mean(1)
    by_end, by_mean = losses[:, -4:-1].mean(1).argmin(), losses[:, 1:].mean(1).argmin()
    assert by_end == 0 and by_mean == 1
    assert tune(grid, draw, "final") is grid[0] and tune(grid, draw) is grid[1]
    with pytest.raises(ValueError, match="for their mean or final loss, but got 'end'"):
        tune(grid, draw, "end")


def test_a_noisy_curve_against_itself_is_hardly_above_1():
    noise = 1 + 0.3 * torch.rand(64, 100, generator=generator())
    raced = result(noisy=noise * torch.linspace(3, 1, 100), flat=noise)
    assert 1 <= speed_up(raced, "noisy", "noisy").value < 1.1
