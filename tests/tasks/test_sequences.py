"""Texts for memories: each answer is what a reader with a dictionary would give."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nested import MetaOptimizer, unroll, unroll_tasks
from nested.models import Hope, ModelConfig
from nested.tasks import AssociativeRecall, ChangingKeys
from nested.tasks.stack import stack_batch, stack_init
from nested.tasks.text_task import scores
from tests.problems import available, generator


def drawn(family, seed=0):
    task = family.sample(generator(seed))
    return task.batch(generator(seed))


@pytest.mark.parametrize("pairs, told", [(5, 10), (1, 2)])
def test_recall_asks_for_the_value_of_each_key(pairs, told):
    symbols, answers = drawn(AssociativeRecall(pairs, batch_size=50))
    assert symbols.shape == answers.shape == (50, 3 * pairs)
    assert (answers[:, :told] == -100).all()
    for text, wanted in zip(symbols.tolist(), answers.tolist()):
        known = dict(zip(text[:told:2], text[1:told:2]))
        assert len(known) == pairs and sorted(text[told:]) == sorted(known)
        assert [known[key] for key in text[told:]] == wanted[told:]


@pytest.mark.parametrize("changes", [1, 3])
def test_changing_keys_asks_for_the_last_value(changes):
    symbols, answers = drawn(ChangingKeys(5, batch_size=50, changes=changes))
    told = 10 + 4 * changes
    assert symbols.shape == (50, told + 5)
    for text, wanted in zip(symbols.tolist(), answers.tolist()):
        known = dict(zip(text[:10:2], text[1:10:2]))
        assert len(known) == 5
        for at in range(10, told, 4):
            again = dict(zip(text[at : at + 4 : 2], text[at + 1 : at + 4 : 2]))
            assert len(again) == 2 and again.keys() < known.keys()
            assert all(known[key] != value for key, value in again.items())
            known |= again
        assert [known[key] for key in text[told:]] == wanted[told:]
    assert len({tuple(sorted(text[10:told:2])) for text in symbols.tolist()}) > 5


def test_tasks_name_symbols_differently_and_accuracy_counts_answers_alone():
    family = AssociativeRecall(2, 2, batch_size=9)
    first, second = (drawn(family, seed) for seed in (0, 1))
    assert first[0].unique().tolist() == [0, 1, 2, 3] and not torch.equal(first[0], second[0])
    answers = first[1]
    right = torch.nn.functional.one_hot(answers.clamp(min=0), 4).float()
    assert scores(right, answers)["accuracy"] == 1
    assert scores(right[..., [1, 2, 3, 0]], answers)["accuracy"] == 0
    assert math.isnan(scores(right, torch.full_like(answers, -100))["accuracy"])


def recall_by(mixer):
    sizes = {"dim": 8, "heads": 2, "layers": 1, "periods": (4,), "chunk": 4, "mixer": mixer}
    make_model = lambda vocab: Hope(ModelConfig(vocab, **sizes))  # noqa: E731
    return AssociativeRecall(2, 4, batch_size=8, make_model=make_model)


@pytest.mark.parametrize("backend", available("eager", "checkpoint", "higher"))
@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention"])
def test_models_are_trained_by_the_same_loop(mixer, backend):
    """K inner steps over a model whose own inner steps are tokens: the hypergradient goes through
    both."""
    family, g = recall_by(mixer), generator()
    task = family.sample(g)
    params, batches, rule = task.init(g), [task.batch(g) for _ in range(3)], MetaOptimizer()
    with sdpa_kernel(SDPBackend.MATH):  # attention's fast kernels have no second derivative
        run = unroll(task.loss, params, batches, rule, backend=backend)
        run.losses[-1].backward()
    assert abs(run.losses[0].item() - math.log(8)) < 0.15
    assert all(p.grad.abs().sum() > 0 for p in rule.parameters())


def test_many_models_of_memories_learn_at_once():
    family, g = recall_by("linear"), generator()
    tasks = [family.sample(g) for _ in range(2)]
    batches = [stack_batch(tasks, g) for _ in range(2)]
    params, rule = stack_init(tasks, g), MetaOptimizer()
    many = unroll_tasks(tasks[0].loss, params, batches, rule).losses
    for t, task in enumerate(tasks):
        one = {name: p[t] for name, p in params.items()}
        own = [tuple(part[t] for part in batch) for batch in batches]
        assert torch.allclose(unroll(task.loss, one, own, rule).losses, many[t], atol=1e-5)


def test_mistakes_are_said():
    with pytest.raises(ValueError, match="pairs are 1 to symbols = 4, but got 5"):
        AssociativeRecall(5, 4)
    with pytest.raises(ValueError, match="pairs are 2 to symbols = 8, but got 1"):
        ChangingKeys(1)
