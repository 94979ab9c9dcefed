"""The made-up families are what they say."""

import pytest
import torch

from nested.tasks import Quadratics, SumRegression
from tests.problems import generator


def test_sum_regression_is_solved_by_ones():
    family, g = SumRegression(dim=5, noise=0.01), generator()
    task = family.sample(g)
    solution = {"weight": torch.ones(1, 5), "bias": torch.zeros(1)}
    losses = torch.stack([task.loss(solution, task.batch(g)) for _ in range(100)])
    assert losses.mean() == pytest.approx(0.01**2, rel=0.1)


def test_sum_regressions_inputs_have_the_tasks_scale():
    family, g = SumRegression(batch_size=5000), generator()
    for _ in range(3):
        task = family.sample(g)
        assert task.batch(g)[0].std() == pytest.approx(task.scale, rel=0.05)


def test_quadratics_have_their_curvature_and_bottom():
    family, g = Quadratics(dim=6, curvature=(0.1, 2.0)), generator()
    task = family.sample(g)
    eigenvalues = torch.linalg.eigvalsh(task.curvature)
    assert eigenvalues.min() > 0.1 - 1e-5 and eigenvalues.max() < 2 + 1e-5
    start, batch = task.init(g), task.batch(g, "query")
    newton = start["w"] - torch.linalg.solve(
        task.curvature, torch.func.grad(task.loss)(start, batch)["w"]
    )
    torch.testing.assert_close(newton, task.centre, rtol=1e-3, atol=1e-4)
    assert task.loss({"w": task.centre}, batch) == 0


def test_quadratics_are_noisy_only_in_training():
    task, g = Quadratics(noise=0.5).sample(generator()), generator(1)
    seen = torch.stack([task.batch(g)[1] for _ in range(2000)])
    torch.testing.assert_close(seen.std(0), torch.full((8,), 0.5), rtol=0.1, atol=0)
    torch.testing.assert_close(seen.mean(0), task.centre, rtol=0, atol=0.05)
    assert torch.equal(task.batch(g, "query")[1], task.centre)


@pytest.mark.parametrize(
    ("family", "wrong", "message"),
    [
        (Quadratics, {"curvature": (2.0, 1.0)}, "curvature is"),
        (Quadratics, {"curvature": (1.0, float("inf"))}, "curvature is"),
        (Quadratics, {"dim": 0}, "dim is a whole number"),
        (Quadratics, {"noise": float("nan")}, "noise is a finite number"),
        (SumRegression, {"batch_size": 0}, "batch_size is a whole number"),
        (SumRegression, {"scale": (0.0, 1.0)}, "scale is"),
    ],
)
def test_wrong_settings_are_refused(family, wrong, message):
    with pytest.raises(ValueError, match=message):
        family(**wrong)
