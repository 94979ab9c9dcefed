"""The learned rule: its step by hand, its training, and what the one that ships is worth."""

import pytest
import torch

from nested.continual.meta_learned import MetaLearned, shipped_rule
from nested.continual.nets import build_net
from nested.continual.steady import RANGES, START, SteadyRule
from nested.continual.teach import LENGTH, Streams, compared, main, scores, teach
from nested.support.files import load_checkpoint
from nested.tasks.data_sets import all_glyphs
from tests.problems import generator


def test_an_untrained_rule_is_clipped_descent_with_a_copy_that_follows():
    rule, source = SteadyRule().double(), generator()
    params = {"slow.1.weight": torch.randn(3, 2, generator=source).double()}
    params["head.bias"] = torch.randn(4, generator=source).double()
    grads = {
        name: 2 * torch.randn(p.shape, generator=source).double() for name, p in params.items()
    }
    slow = {name: torch.randn(p.shape, generator=source).double() for name, p in params.items()}
    step = rule(params, grads, {"slow": slow}, torch.zeros(()))
    length = torch.cat([g.flatten() for g in grads.values()]).norm()
    assert length > 1
    for name, w in params.items():
        new = w - START["rate"] * grads[name] / length - START["pull"] * (w - slow[name])
        copy = slow[name] + START["share"] * (new - slow[name])
        assert torch.allclose(step.params[name], new, rtol=1e-6)
        assert torch.allclose(step.state["slow"][name], copy, rtol=1e-6)


def test_its_numbers_stay_in_their_ranges():
    rule = SteadyRule()
    for value in (-1e9, 1e9):
        torch.nn.init.constant_(rule.raw, value)
        for name, numbers in rule.numbers().items():
            low, high = RANGES[name]
            assert (numbers >= 0.999 * low).all() and (numbers <= 1.001 * high).all()


def test_each_kind_of_tensor_learns_its_own_numbers():
    rule = SteadyRule()
    streams = Streams(all_glyphs(), is_held_out=False, tasks=2)
    loss, _ = scores(rule, streams, 2, generator())
    (slopes,) = torch.autograd.grad(loss, [rule.raw])
    assert slopes.isfinite().all()
    used = slopes.abs().sum(0) > 0  # (parts, kinds); an MLP has no "medium" part
    assert used.tolist() == [[True] * 2, [False] * 2, [True] * 2, [True] * 2]


def test_streams_to_learn_from_and_held_out_share_no_character():
    data = all_glyphs()
    first, second = Streams(data, False), Streams(data, True)
    assert not set(first.classes.tolist()) & set(second.classes.tolist())
    batches, queries = first.sample(generator())
    assert len(batches) == 5 * LENGTH and len(queries) == 5
    labels = torch.cat([labels for _, (labels, _) in batches[-LENGTH:]])
    assert set(labels.tolist()) == set(range(10))  # the last task, and rehearsed ones
    _, (labels, weights) = batches[0]
    assert weights.sum().item() == pytest.approx(1) and set(labels[:10].tolist()) <= {0, 1}


def test_meta_training_is_reproducible_and_moves_the_rule():
    first, second = teach(2, 2, seed=3), teach(2, 2, seed=3)
    assert first.raw.equal(second.raw) and not first.raw.equal(SteadyRule().raw)


def test_the_rule_that_ships_beats_the_one_it_started_from_on_held_out_streams():
    differences = compared(shipped_rule(), count=24)
    assert set(differences) == {5, 10}
    for mean, error in differences.values():
        assert mean > 2 * error > 0


def test_a_given_rule_is_used():
    still = SteadyRule()
    torch.nn.init.constant_(still.raw[0], -1e9)  # the lowest rate
    net = build_net((4,), 4)
    before = {name: w.detach().clone() for name, w in net.named_parameters()}
    strategy = MetaLearned(net, rule=still, budget=1000)
    strategy.observe(torch.randn(5, 4), torch.arange(5) % 4)
    moved = max((w - before[name]).abs().max() for name, w in net.named_parameters())
    assert 0 < moved < 2e-3


def test_the_command_saves_a_rule(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nested.continual.teach.compared", lambda rule: None)
    monkeypatch.setattr("nested.continual.teach.COUNT", 2)
    out = tmp_path / "rule.pt"
    assert main(["--steps", "1", "--out", str(out)]) == 0
    assert "rate" in capsys.readouterr().out
    assert load_checkpoint(out)["rule"]["raw"].shape == (3, 4, 2)
    assert main(["--steps", "0", "--out", str(out)]) == 1
    assert "error: steps is a whole number from 1" in capsys.readouterr().err
