"""Rules as files: whole again, and refused in one sentence when they are not."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nested import MetaOptimizer, UpdateRule
from nested.rules import (
    CoordinatewiseRule,
    LearnedOptimizer,
    PerTensorRule,
    load_rule,
    pretrained_names,
    read_card,
    save_rule,
)
from tests.problems import generator

KINDS = {
    "coordinatewise": lambda: CoordinatewiseRule(8, (1e-4, 0.5), generator=generator(3)),
    "meta": lambda: MetaOptimizer(5, generator=generator(3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_rule_comes_back_as_it_was(kind, tmp_path):
    rule = KINDS[kind]()
    save_rule(tmp_path / "mine.safetensors", rule, {"made by": "hand"})
    again = load_rule(tmp_path / "mine.safetensors")
    assert type(again) is type(rule) and again.hidden == rule.hidden
    assert again.lr_range == rule.lr_range
    for ours, theirs in zip(rule.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert read_card(tmp_path / "mine.safetensors") == {"made by": "hand"}


def test_every_rule_of_the_package_can_be_loaded_and_used():
    for name in pretrained_names():
        assert isinstance(load_rule(name), UpdateRule)
        net = torch.nn.Linear(3, 2)
        LearnedOptimizer.from_pretrained(name, net.parameters(), total_steps=10)


def test_a_file_of_ones_own_can_be_taken_home(tmp_path):
    save_rule(tmp_path / "mine.safetensors", CoordinatewiseRule())
    net = torch.nn.Linear(3, 2)
    path = str(tmp_path / "mine.safetensors")
    optimizer = LearnedOptimizer.from_pretrained(path, net.parameters(), total_steps=10)
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()


def test_wrong_files_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "rule.safetensors"

    def refused(said):
        with pytest.raises(ValueError, match=said):
            load_rule(path)

    refused("there is no rule .*: there are")
    path.write_bytes(b"not a rule at all")
    refused("cannot be read: it is truncated, or no rule")
    save_rule(path, CoordinatewiseRule())
    path.write_bytes(path.read_bytes()[:-40])
    refused("cannot be read: it is truncated, or no rule")
    save_file({"x": torch.zeros(2)}, path)
    refused("has format none, and this version of nested reads 1")
    save_file({"x": torch.zeros(2)}, path, {"format": "99"})
    refused("has format 99, and this version of nested reads 1: train it anew")
    save_file({"x": torch.zeros(2)}, path, {"format": "1"})
    refused("does not hold a rule of this package")
    described = json.dumps({"class": "CoordinatewiseRule", "settings": {"hidden": 4}})
    save_file({"x": torch.zeros(2)}, path, {"format": "1", "rule": described})
    refused("does not hold a rule of this package")
    described = json.dumps({"class": "Popen", "settings": {"args": "ls"}})
    save_file({"x": torch.zeros(2)}, path, {"format": "1", "rule": described})
    refused("does not hold a rule of this package")


def test_rules_that_cannot_be_saved_say_so(tmp_path):
    class Own(MetaOptimizer):
        pass

    with pytest.raises(ValueError, match="rules that can be saved are .* but got a Own"):
        save_rule(tmp_path / "rule.safetensors", Own())
    with pytest.raises(ValueError, match="settings cannot be saved"):
        save_rule(tmp_path / "rule.safetensors", MetaOptimizer(context=(lambda **seen: 0,)))
    assert not list(tmp_path.iterdir())


def test_a_rule_per_tensor_can_be_saved(tmp_path):
    rule = PerTensorRule(6, generator=generator(2))
    save_rule(tmp_path / "rule.safetensors", rule)
    again = load_rule(tmp_path / "rule.safetensors")
    assert again.hidden == 6 and again.context == rule.context
    assert torch.equal(again.net[0].weight, rule.net[0].weight)


def test_the_default_says_how_it_was_made_and_where_it_fails():
    card = read_card("default")
    assert card["command"].startswith("python -m nested.rules.train --steps")
    assert card["seconds"] < 1800 and card["taught on"] and card["known limits"]
    assert len(card["results"]) >= 11


def test_rules_that_are_no_numbers_and_cards_that_are_none_are_refused(tmp_path):
    path, rule = tmp_path / "rule.safetensors", CoordinatewiseRule()
    torch.nn.init.constant_(rule.mix.weight, float("nan"))
    save_rule(path, rule)
    with pytest.raises(ValueError, match="has weights that are not finite: train it anew"):
        load_rule(path)
    save_file({"x": torch.zeros(2)}, path, {"format": "1", "card": "{"})
    with pytest.raises(ValueError, match="has no card that can be read"):
        read_card(path)


def test_others_can_read_what_is_saved(tmp_path):
    save_rule(tmp_path / "rule.safetensors", CoordinatewiseRule())
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "rule.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode
