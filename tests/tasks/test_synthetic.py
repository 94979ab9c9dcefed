"""The made-up families are what they say."""

import pytest
import torch

from nested.tasks import ByteRNN, Quadratics, Rosenbrock, Sinusoids, SumRegression
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


def test_quadratics_have_the_condition_number_asked_for():
    task = Quadratics(dim=6, condition=500.0).sample(generator())
    eigenvalues = torch.linalg.eigvalsh(task.curvature.double())
    assert eigenvalues.max() / eigenvalues.min() == pytest.approx(500, rel=0.01)
    with pytest.raises(ValueError, match="condition is a finite number from 1, but got 0.5"):
        Quadratics(condition=0.5)


def test_rosenbrocks_valley_ends_at_ones_and_has_its_curvature():
    family, g = Rosenbrock(dim=2, steepness=(100.0, 100.0), noise=0.0), generator()
    task = family.sample(g)
    bottom, batch = {"w": task.centre + 1}, task.batch(g)
    assert task.loss(bottom, batch) == pytest.approx(0, abs=1e-10)
    hessian = torch.func.hessian(task.loss)(bottom, batch)["w"]["w"]
    wanted = torch.tensor([[802.0, -400.0], [-400.0, 200.0]])  # at (1, 1), in every textbook
    torch.testing.assert_close(hessian, wanted, rtol=1e-3, atol=0.1)
    with pytest.raises(ValueError, match="dim is a whole number from 2, but got 1"):
        Rosenbrock(dim=1)


def test_sinusoids_have_their_amplitude_and_frequency():
    family, g = Sinusoids(batch_size=4000, noise=0.0), generator()
    task = family.sample(g)
    x, y = task.batch(g)
    phases = task.frequency * x
    columns = torch.cat([phases.sin(), phases.cos()], dim=1)
    weights = torch.linalg.lstsq(columns, y).solution
    assert weights.norm() == pytest.approx(task.amplitude, rel=1e-4)
    assert torch.allclose(columns @ weights, y, atol=1e-4)


def test_text_is_the_help_that_comes_with_python_and_sides_share_no_passage():
    import pydoc_data.topics

    family, g = ByteRNN(length=10), generator()
    text, targets = family.sample(g).batch(g)
    targets = targets.view(text.shape)
    assert torch.equal(text[:, 1:], targets[:, :-1])
    pieces = [bytes(row).decode() for row in text.tolist()]
    pieces = [piece for piece in pieces if "\0" not in piece]  # what is not ASCII
    topics = pydoc_data.topics.topics
    everything = "\n".join(topics[name] for name in sorted(topics))
    assert len(pieces) > 10 and all(piece in everything for piece in pieces)
    ours, theirs = (
        {tuple(p.tolist()) for p in side.passages} for side in (family, family.held_out())
    )
    assert ours and theirs and not ours & theirs
    with pytest.raises(ValueError, match="length is at most 500 bytes, but got 501"):
        ByteRNN(length=501)


def test_the_recurrent_net_reads_as_torchs_own_does():
    family, g = ByteRNN(hidden=6, length=9, dtype=torch.float64), generator()
    task = family.sample(g)
    params, (text, _) = task.init(g), task.batch(g)
    theirs = torch.nn.RNN(128, 6, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(params["embed.weight"])
        theirs.bias_ih_l0.copy_(params["embed.bias"])
        theirs.weight_hh_l0.copy_(params["recur.weight"])
        theirs.bias_hh_l0.zero_()
    states, _ = theirs(torch.nn.functional.one_hot(text, 128).double())
    wanted = states @ params["read.weight"].T + params["read.bias"]
    found = torch.func.functional_call(family.model, params, (text,))
    torch.testing.assert_close(found, wanted)
