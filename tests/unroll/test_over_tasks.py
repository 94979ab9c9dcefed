"""Which rules move T tasks by themselves, and what importing the package does not import."""

import subprocess
import sys

from nested import MetaOptimizer, unroll_tasks
from nested.unroll.batched import rule_of_tasks
from tests.problems import problem, repeat_tasks


class Louder(MetaOptimizer):
    """Inherits ``takes_tasks``, but its own ``forward`` is for one task."""

    def forward(self, params, grads, state, loss):
        assert loss.dim() == 0
        return super().forward(params, grads, state, loss)


def test_a_claim_to_take_tasks_is_that_of_the_class_that_defines_forward():
    assert rule_of_tasks(MetaOptimizer()).__class__ is MetaOptimizer
    assert rule_of_tasks(Louder()).__class__ is not Louder
    loss_fn, params, batches, _ = problem(2)
    many = repeat_tasks(params), [repeat_tasks(b) for b in batches]
    run = unroll_tasks(loss_fn, *many, Louder().double())
    assert run.losses.shape == (2, 2)


def test_to_import_the_package_is_not_to_import_the_compiler():
    code = "import sys, nested; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
