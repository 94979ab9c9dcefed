"""What every task on texts promises: answers that can be had, a chance level, seeded draws."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from nested.models import Hope, ModelConfig
from nested.tasks import TASKS
from nested.tasks.text_task import scores
from tests.problems import generator
from tests.tasks.solvers import solve

NAMED = {name: make for group in TASKS.values() for name, make in group.items()}
FEW = ("(aa)*", "(abab)*", "a^n b^n", "a^n b^n c^n")  # one string of each length


@pytest.fixture(params=NAMED)
def name(request):
    return request.param


@pytest.fixture
def task(name):
    return NAMED[name]()


def test_the_tables_of_the_paper_are_here():
    assert {group: len(tasks) for group, tasks in TASKS.items()} == {
        "languages": 5,
        "groups": 4,
        "mad": 6,
    }
    assert len(NAMED) == 15


@pytest.mark.parametrize("times", [1, 2, 4, 8])
@pytest.mark.parametrize("split", ["train", "query"])
def test_a_solver_is_always_right(name, split, times):
    task = NAMED[name](batch_size=4 if name == "A5" else 16)
    tokens, targets = task.batch(generator(times), split, length=times * task.length)
    assert tokens.shape == (task.batch_size, times * task.length)
    answers = solve(task, tokens)
    assert scores(answers, targets) == {"accuracy": 1, "last": 1, "whole": 1}


def test_tokens_and_targets_fit_a_model_and_every_text_asks(task):
    for length in (None, 2 * task.length):
        tokens, targets = task.batch(generator(), length=length)
        assert tokens.dtype == targets.dtype == torch.int64 and tokens.shape == targets.shape
        assert tokens.shape == (task.batch_size, length or task.length)
        assert 0 <= tokens.min() and tokens.max() < task.vocab
        asked = targets != -100
        assert asked.any(1).all() and 0 <= targets[asked].min()
        assert targets.max() < task.vocab


def test_chance_is_one_of_the_answers_that_come(name):
    task = NAMED[name](batch_size=500)
    _, targets = task.batch(generator())
    possible = targets[targets >= 0].unique()
    assert len(possible) == task.answers and task.chance == 1 / len(possible)


def test_draws_follow_the_generator_alone(task):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (task.batch(generator(seed)) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[0], other[0])
    torch.set_default_dtype(torch.float64)
    try:
        assert all(map(torch.equal, first, task.batch(generator(0))))
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_query_text_is_a_train_text(name, task):
    rows = [
        {tuple(row) for seed in range(3) for row in task.batch(generator(seed), split)[0].tolist()}
        for split in ("train", "query")
    ]
    if name not in FEW:  # very short strings come again
        assert not {row for row in rows[0] & rows[1] if len(set(row[8:])) > 1}
    tests = {tuple(row) for row in task.batch(generator(), "query", 2 * task.length)[0].tolist()}
    assert not {row[: task.length] for row in tests} & rows[0] or name in ("(aa)*", "(abab)*")


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_models_learn_from_it(task, kind):
    sizes = {"dim": 8, "heads": 1, "layers": 1, "periods": (16,), "chunk": 16, "mixer": kind}
    model = task.new_model(lambda vocab: Hope(ModelConfig(vocab, **sizes)))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    tokens, targets = task.batch(generator())
    losses = []
    for _ in range(4):
        logits, _ = model(tokens)
        assert logits.shape == (*tokens.shape, task.vocab)
        losses.append(cross_entropy(logits.flatten(0, 1), targets.flatten()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_scores_count_tokens_last_tokens_and_whole_texts():
    targets = torch.tensor([[-100, 1, 0, -100], [2, -100, 1, 1], [-100] * 4, [0, 0, -100, -100]])
    answers = torch.tensor([[2, 1, 0, 2], [2, 0, 1, 0], [1] * 4, [1, 0, 2, 2]])
    result = scores(one_hot(answers, 3).float(), targets)
    assert result == pytest.approx({"accuracy": 5 / 7, "last": 2 / 3, "whole": 1 / 3})
    broken = torch.full((*targets.shape, 3), math.nan)
    assert scores(broken, torch.zeros_like(targets)) == {"accuracy": 0, "last": 0, "whole": 0}
    nothing = scores(one_hot(answers, 3).float(), torch.full_like(targets, -100))
    assert all(math.isnan(share) for share in nothing.values())


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 5), (2, 0, 5)])
def test_scores_refuse_logits_of_other_texts(shape):
    with pytest.raises(ValueError, match="logits are .texts, tokens, vocab. for targets"):
        scores(torch.zeros(shape), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="but got .2, 0, 5. and .2, 0."):
        scores(torch.zeros(2, 0, 5), torch.zeros(2, 0, dtype=torch.int64))


def test_mistakes_are_said(task):
    with pytest.raises(ValueError, match="split is one of .* but got 'test'"):
        task.batch(generator(), "test")
    with pytest.raises(ValueError, match="length is a whole number from 1, but got 0"):
        task.batch(generator(), length=0)
    with pytest.raises(ValueError, match="batch_size is a whole number from 1, but got 1.5"):
        type(task)(batch_size=1.5)
