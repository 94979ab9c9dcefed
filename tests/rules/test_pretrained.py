"""Rules as files: whole again, and refused in one sentence when they are not."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nested import MetaConfig, MetaOptimizer, UpdateRule, meta_train
from nested.rules import (
    AdamRule,
    AdamWRule,
    CoordinatewiseRule,
    LearnedOptimizer,
    SGDRule,
    load_rule,
    pretrained_names,
    read_card,
    registry,
    save_rule,
)
from nested.rules.registry import RULES, register
from nested.tasks import SumRegression
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
    class Forgetful(UpdateRule):
        def __init__(self, rate=0.1):
            super().__init__()

    with pytest.raises(ValueError, match="settings cannot be saved: 'rate' is an argument of Forg"):
        save_rule(tmp_path / "rule.safetensors", Forgetful())
    with pytest.raises(TypeError, match="save_rule takes an UpdateRule, but got Linear"):
        save_rule(tmp_path / "rule.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="settings cannot be saved"):
        save_rule(tmp_path / "rule.safetensors", MetaOptimizer(context=(lambda **seen: 0,)))
    assert not list(tmp_path.iterdir())


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


class Own(UpdateRule):
    """A rule of a user."""

    def __init__(self, rates=(0.1, 0.2), scale=1.0):
        super().__init__()
        self.rates, self.scale = tuple(rates), scale
        self.weight = torch.nn.Parameter(torch.tensor(rates))


def test_a_rule_of_ones_own_class_is_loaded_when_the_class_is_named(tmp_path):
    path, rule = tmp_path / "rule.safetensors", Own((0.5, 0.25, 0.125), 2.0)
    save_rule(path, rule.double())
    again = load_rule(path, rule_class=Own)
    assert type(again) is Own and again.rates == rule.rates and again.scale == 2.0
    assert torch.equal(again.weight, rule.weight) and again.weight.dtype == torch.float64
    with pytest.raises(ValueError, match="but of the class tests.rules.test_pretrained.Own: give"):
        load_rule(path)
    with pytest.raises(ValueError, match="holds a tests.rules.test_pretrained.Own, but rule_class"):
        load_rule(path, rule_class=CoordinatewiseRule)
    with pytest.raises(TypeError, match="rule_class is a class of rules, but got 'Own'"):
        load_rule(path, rule_class="Own")


def test_a_file_names_code_but_never_runs_it(tmp_path):
    path = tmp_path / "rule.safetensors"
    for name in ("os.system", "subprocess.Popen", "tests.rules.test_pretrained.Own"):
        described = json.dumps({"class": name, "settings": {"args": "ls"}})
        save_file({"x": torch.zeros(2)}, path, {"format": "1", "rule": described})
        with pytest.raises(ValueError, match="does not hold a rule of this package, but of the"):
            load_rule(path)


CHECKPOINTED = {
    "demo": lambda: MetaOptimizer(5, generator=generator(1)),
    "one feature": lambda: MetaOptimizer(5, context=("log_loss",)),
    "float64": lambda: MetaOptimizer(5).double(),
    "Adam": lambda: AdamRule(0.02),
}


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_a_checkpoint_of_meta_training_can_be_loaded(name, tmp_path):
    rule, path = CHECKPOINTED[name](), tmp_path / "rule.pt"
    dtype = next(rule.parameters()).dtype
    config = MetaConfig(meta_steps=2, tasks=2, unroll_length=2, max_horizon=2)
    meta_train(rule, SumRegression(dtype=dtype), config, checkpoint=path)
    again = load_rule(path)
    assert type(again) is type(rule)
    for ours, theirs in zip(again.parameters(), rule.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    net = torch.nn.Linear(3, 2)
    net(torch.ones(4, 3)).square().mean().backward()
    LearnedOptimizer.from_pretrained(path, net.parameters()).step(loss=torch.tensor(1.0))


def log_loss(*, loss, **others):
    return loss.detach().log()


def test_checkpoints_that_are_none_are_refused(tmp_path):
    class Pickled:
        def __reduce__(self):
            return print, ("code of a file ran",)

    path = tmp_path / "rule.pt"
    torch.save({"rule": Pickled()}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_rule(path)
    torch.save({"x": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="does not hold a rule of this package"):
        load_rule(path)
    rule = MetaOptimizer(5, context=(log_loss,))
    config = MetaConfig(meta_steps=1, tasks=2, unroll_length=2, max_horizon=2)
    meta_train(rule, SumRegression(), config, checkpoint=path)
    with pytest.raises(ValueError, match="settings that are no plain data: load it by meta_train"):
        load_rule(path)


@pytest.mark.parametrize("rule", [SGDRule(0.3), AdamWRule(0.02, names=("a", "b"))], ids=str)
def test_classic_rules_are_files_too(rule, tmp_path):
    save_rule(tmp_path / "rule.safetensors", rule)
    again = load_rule(tmp_path / "rule.safetensors")
    assert type(again) is type(rule) and again.names == rule.names
    for ours, theirs in zip(again.parameters(), rule.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_rule_that_registers_itself_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("nested.rules.registry.RULES", dict(RULES))
    monkeypatch.setattr("nested.rules.pretrained.RULES", registry.RULES)
    assert register(Own) is Own and register(Own) is Own
    save_rule(tmp_path / "rule.safetensors", Own())
    assert type(load_rule(tmp_path / "rule.safetensors")) is Own
    with pytest.raises(ValueError, match="there is a rule Own already: give yours another name"):
        register(type("Own", (UpdateRule,), {}))
