"""check_family passes every built-in family, and names what is wrong with others."""

import pytest
import torch

from nested.conformance import FAMILY_CHECKS, ConformanceError, check_family
from nested.conformance.check import run_check
from nested.tasks import FAMILIES, SumRegression
from nested.tasks.sum_regression import SumRegressionTask


@pytest.mark.parametrize("name, seed", [*((name, 0) for name in FAMILIES), ("digits", 1)])
def test_every_built_in_family_keeps_the_contract(name, seed):
    results = check_family(FAMILIES[name](), seed)
    assert len(results) == len(FAMILY_CHECKS) and all(r.verdict.passed for r in results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_data_of_half_precision_have_rows_too(dtype):
    (check,) = [check for check in FAMILY_CHECKS if "query" in check.name]
    assert run_check(check, SumRegression(dtype=dtype)).verdict.passed


class Wrong(SumRegression):
    """A family whose tasks are of the class ``task``: what the mutants below break."""

    task = SumRegressionTask

    def sample(self, generator):
        task = super().sample(generator)
        return self.task(task.family, task.scale)

    def held_out(self):
        return type(self)(is_held_out=True)


def with_task(**methods):
    return type("W", (Wrong,), {"task": type("T", (SumRegressionTask,), methods)})


def plain(self, *args, **kwargs):
    return SumRegressionTask.batch(self, *args, **kwargs)


def unseeded(self, generator, split="train"):
    x, y = plain(self, generator, split)
    return x + torch.randn(x.shape), y


def as_query(self, generator, split="train"):
    plain(self, generator, split)
    return plain(self, torch.Generator().manual_seed(int(generator.initial_seed()) % 5))


def zeros(self, generator, split="train"):
    return tuple(0 * part for part in plain(self, generator, split))


def any_split(self, generator, split="train"):
    return plain(self, generator, "query" if split != "train" else split)


def own_scale(self, params, batch):
    return self.family.loss(params, batch) / self.scale


def per_row(self, params, batch):
    x, y = batch
    return ((x @ params["weight"].T + params["bias"] - y) ** 2).flatten()


def flipped(self, generator, split="train"):
    x, y = plain(self, generator, split)
    return x, torch.randn(y.shape, generator=generator)


def branching(self, params, batch):
    loss = self.family.loss(params, batch)
    return loss if loss.item() > 0 else -loss


def of_any_size(self, generator, split="train"):
    rows = int(self.scale * 10) + 2
    return tuple(part[:rows] for part in plain(self, generator, split))


class TrainedOn(Wrong):
    def held_out(self):
        return self


MUTANTS = {
    "draws follow the seed and nothing else": with_task(batch=unseeded),
    "all tasks have one form": with_task(batch=of_any_size),
    "data are alive": with_task(batch=zeros),
    "query data are never train data": with_task(batch=as_query),
    "held-out tasks are never trained on": TrainedOn,
    "all tasks share one scalar loss": with_task(loss=own_scale),
    "many tasks at once give the same losses": with_task(loss=branching),
    "an unknown split is refused": with_task(batch=any_split),
    "it can be learned": with_task(batch=flipped),
}


@pytest.mark.parametrize("check", FAMILY_CHECKS, ids=lambda check: check.name)
def test_each_check_catches_the_fault_it_is_named_for(check):
    verdict = run_check(check, MUTANTS[check.name]()).verdict
    assert not verdict.passed and verdict.hint, verdict


def test_a_loss_per_row_is_no_scalar():
    with pytest.raises(ConformanceError, match=r"the loss has shape \(32,\)"):
        check_family(with_task(loss=per_row)())
