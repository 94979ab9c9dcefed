"""Meta-training learns, repeats itself bit for bit, goes on where it stopped, gives up clearly."""

import pytest
import torch

import nested.meta.training as training
from nested import MetaConfig, MetaOptimizer, UpdateRule, meta_train
from nested.meta.meta_step import WEIGHT_DECAY
from nested.meta.training import MetaTrainingError
from nested.support.files import load_checkpoint
from nested.tasks import Quadratics, SumRegression
from tests.problems import ConstantRule, generator

SMALL = MetaConfig(meta_steps=12, unroll_length=3, max_horizon=9, tasks=4)


@pytest.fixture(autouse=True)
def save_at_every_chance(monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", -1.0)


def numbers(rule):
    return torch.cat([p.detach().flatten() for p in rule.parameters()])


def train(config=SMALL, family=None, **how):
    rule = MetaOptimizer(generator=generator(config.seed))
    return rule, meta_train(rule, family or Quadratics(), config, **how)


def test_it_lowers_the_meta_loss():
    config = MetaConfig(meta_steps=60, unroll_length=5, max_horizon=5, tasks=8)
    _, history = train(config, SumRegression())
    losses = [record.meta_loss for record in history.records]
    assert sum(losses[-15:]) < 0.6 * sum(losses[:15])


def test_the_same_seed_gives_the_same_bits_and_another_other_ones():
    first, second, other = (train(MetaConfig(**{**vars(SMALL), "seed": s})) for s in (0, 0, 1))
    assert torch.equal(numbers(first[0]), numbers(second[0]))
    assert first[1] == second[1]
    assert not torch.equal(numbers(first[0]), numbers(other[0]))


def test_the_higher_backend_learns_the_same():
    eager, _ = train()
    via_higher, _ = train(MetaConfig(**{**vars(SMALL), "backend": "higher"}), SumRegression())
    eager, _ = train(SMALL, SumRegression())
    torch.testing.assert_close(numbers(via_higher), numbers(eager), rtol=1e-3, atol=1e-5)


def test_runs_go_on_from_window_to_window_until_their_horizon():
    _, history = train(MetaConfig(**{**vars(SMALL), "meta_steps": 30}))
    starts = [record.inner_step for record in history.records]
    assert set(starts) == {0, 3, 6} and starts[0] == 0
    assert all(b in (0, a + 3) for a, b in zip(starts, starts[1:]))


def test_a_window_starts_from_the_weights_and_state_that_the_last_one_left():
    run = training.Training(MetaOptimizer(), Quadratics(), SMALL)
    runs = run.start_runs()
    runs.horizon = 9
    (after,) = run.step(runs)
    assert after.steps_done == 3 and after.tasks is runs.tasks
    assert (after.state["step"] == 3).all()
    assert all(v.abs().max() > 0 for v in after.state["momentum"].values())
    assert not torch.equal(after.params["w"], runs.params["w"])
    assert not after.params["w"].requires_grad
    (further,) = run.step(after)
    assert (further.state["step"] == 6).all()
    assert run.step(further) == []  # nine steps were all


def test_it_learns_from_train_batches_and_is_scored_on_query_batches():
    drawn = []

    class Spied(Quadratics):
        def sample(self, generator):
            task = super().sample(generator)

            class SpiedTask(type(task)):
                def batch(self, generator, split="train"):
                    drawn.append(split)
                    return super().batch(generator, split)

            return SpiedTask(task.family, task.curvature, task.centre)

    train(MetaConfig(**{**vars(SMALL), "meta_steps": 2}), Spied())
    assert drawn.count("train") == 2 * 3 * 4 and drawn.count("query") == 2 * 4


def test_the_objective_changes_what_is_learned():
    other = train(MetaConfig(**{**vars(SMALL), "objective": "query"}))[0]
    plain = train()[0]
    assert not torch.equal(numbers(plain), numbers(other))


def test_adams_rate_falls_and_weight_decay_acts():
    run = training.Training(MetaOptimizer(), Quadratics(), SMALL)
    rates = []
    for _ in range(SMALL.meta_steps):
        run.step(run.start_runs())
        rates.append(run.meta_step.optimizer.param_groups[0]["lr"])
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(SMALL.lr) and rates[-1] < 0.1 * SMALL.lr
    assert run.meta_step.optimizer.param_groups[0]["weight_decay"] == WEIGHT_DECAY


@pytest.mark.parametrize("missing", ["rule", "optimizer", "generator", "history", "made_for"])
def test_a_checkpoint_that_lacks_a_part_is_refused_and_nothing_is_changed(tmp_path, missing):
    path = tmp_path / "rule.pt"
    train(checkpoint=path)
    content = load_checkpoint(path)
    del content[missing]
    torch.save(content, path)
    rule = MetaOptimizer(generator=generator(5))
    before = numbers(rule)
    with pytest.raises(ValueError, match="lacks parts of a meta-training|was made with another"):
        meta_train(rule, Quadratics(), SMALL, checkpoint=path, resume=True)
    assert torch.equal(numbers(rule), before)


def test_hypergradients_are_clipped():
    """Far under Adam's epsilon a clipped hypergradient cannot move the rule; the norm shown is
    the one before."""
    rule, history = train(MetaConfig(**{**vars(SMALL), "clip": 1e-15}))
    start = numbers(MetaOptimizer(generator=generator(0)))
    assert all(record.grad_norm > 1e-6 for record in history.records)
    torch.testing.assert_close(numbers(rule), start, rtol=1e-3, atol=1e-6)
    assert (numbers(train()[0]) - start).abs().max() > 0.01


@pytest.mark.parametrize("stop_after", [1, 4, 7, 11])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, stop_after):
    config = SMALL
    whole, whole_history = train(config)

    def stop(history):
        if len(history.records) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, checkpoint=tmp_path / "rule.pt", on_step=stop)
    saved = load_checkpoint(tmp_path / "rule.pt")
    assert len(saved["history"]) <= stop_after
    resumed, history = train(config, checkpoint=tmp_path / "rule.pt", resume=True)
    assert torch.equal(numbers(resumed), numbers(whole))
    assert history == whole_history


def test_a_finished_run_resumes_to_itself(tmp_path):
    whole, whole_history = train(checkpoint=tmp_path / "rule.pt")
    again, history = train(checkpoint=tmp_path / "rule.pt", resume=True)
    assert torch.equal(numbers(again), numbers(whole)) and history == whole_history


def test_a_finished_run_may_go_on_to_more_meta_steps(tmp_path):
    path = tmp_path / "rule.pt"
    whole, whole_history = train(checkpoint=path)
    longer = MetaConfig(**{**vars(SMALL), "meta_steps": 20})
    rule, history = train(longer, checkpoint=path, resume=True)
    assert len(history.records) == 20 and history.records[:12] == whole_history.records
    assert not torch.equal(numbers(rule), numbers(whole))
    again, same_history = train(longer, checkpoint=path, resume=True)
    assert torch.equal(numbers(again), numbers(rule)) and same_history == history


def test_without_a_checkpoint_resume_starts_from_the_beginning(tmp_path):
    fresh, _ = train(checkpoint=tmp_path / "rule.pt", resume=True)
    assert torch.equal(numbers(fresh), numbers(train()[0]))


def test_a_checkpoint_of_something_else_is_refused_and_kept(tmp_path):
    path = tmp_path / "rule.pt"
    train(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another config: its meta_steps is 12, here it is 11"):
        train(MetaConfig(**{**vars(SMALL), "meta_steps": 11}), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="another config: its lr is 0.03, here it is 0.02"):
        train(
            MetaConfig(**{**vars(SMALL), "meta_steps": 13, "lr": 0.02}),
            checkpoint=path,
            resume=True,
        )
    with pytest.raises(ValueError, match="another family: its class is Quadratics, here it is Sum"):
        train(family=SumRegression(), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="another family: its dim is 8, here it is 3"):
        train(family=Quadratics(dim=3), checkpoint=path, resume=True)
    for other in (MetaOptimizer(7), MetaOptimizer(lr_range=(1e-6, 1e-2)), MetaOptimizer().double()):
        with pytest.raises(ValueError, match="another rule"):
            meta_train(other, Quadratics(), SMALL, checkpoint=path, resume=True)
    with pytest.raises(
        ValueError, match="another rule: its class is MetaOptimizer, here it is Con"
    ):
        rule = ConstantRule(0.1, 0.5)
        meta_train(rule, Quadratics(), SMALL, checkpoint=path, resume=True)
    assert path.read_bytes() == before


def test_a_file_that_is_no_checkpoint_of_training_is_refused(tmp_path):
    torch.save({"weights": torch.ones(1)}, tmp_path / "rule.pt")
    with pytest.raises(ValueError, match="has format None, not 1"):
        train(checkpoint=tmp_path / "rule.pt", resume=True)


class Exploding(Quadratics):
    """Bowls so steep from some draw on that every run overflows."""

    def __init__(self, bad, **settings):
        super().__init__(**settings)
        self.bad, self.drawn = bad, 0

    def sample(self, generator):
        self.drawn += 1
        task = super().sample(generator)
        steep = 1e30 if self.drawn in self.bad else 1.0
        return type(task)(task.family, steep * task.curvature, task.centre)


def test_a_hypergradient_that_is_not_finite_is_skipped_and_counted():
    rule, history = train(family=Exploding(bad={1}))
    assert history.skipped == 1 and history.records[0].skipped
    assert history.records[1].inner_step == 0, "the broken runs are left for fresh ones"
    assert torch.isfinite(numbers(rule)).all()


def test_too_many_in_a_row_stop_with_the_last_good_state_saved(tmp_path):
    path = tmp_path / "rule.pt"
    family = Exploding(bad=set(range(17, 1000)))
    with pytest.raises(MetaTrainingError, match="4 hypergradients in a row were not finite"):
        train(MetaConfig(**{**vars(SMALL), "max_skips": 4}), family, checkpoint=path)
    saved = load_checkpoint(path)
    assert all(torch.isfinite(p).all() for p in saved["rule"].values())
    assert len(saved["history"]) > 4


def test_a_rule_with_nothing_to_learn_is_refused():
    class Fixed(UpdateRule):
        pass

    with pytest.raises(ValueError, match="no parameters to learn"):
        meta_train(Fixed(), Quadratics(), SMALL)


def test_a_rule_whose_signals_are_detached_is_refused():
    class Detached(MetaOptimizer):
        def signals(self, context):
            return tuple(signal.detach() for signal in super().signals(context))

    with pytest.raises(ValueError, match="does not depend on the rule: is a signal detached"):
        meta_train(Detached(), Quadratics(), SMALL)


def test_data_that_are_not_finite_stop_it_at_once():
    class Spoiled(Quadratics):
        def sample(self, generator):
            task = super().sample(generator)
            task.centre[0] = float("nan")
            return task

    with pytest.raises(ValueError, match="values that are not finite"):
        train(family=Spoiled())


def test_query_data_that_are_not_finite_are_named():
    class Spoiled(Quadratics):
        def sample(self, generator):
            task = super().sample(generator)

            class SpoiledTask(type(task)):
                def batch(self, generator, split="train"):
                    curvature, centre = super().batch(generator, split)
                    return curvature, centre * float("nan") if split == "query" else centre

            return SpoiledTask(task.family, task.curvature, task.centre)

    with pytest.raises(ValueError, match="the query batch has values that are not finite"):
        train(family=Spoiled())


def test_parts_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="takes an UpdateRule and a TaskFamily, but got str"):
        meta_train("rule", Quadratics())


def test_resume_needs_a_checkpoint():
    with pytest.raises(ValueError, match="resume needs the checkpoint"):
        meta_train(MetaOptimizer(), SumRegression(), resume=True)


def one_of_my_own(*, loss, step, params, grads, buffer):
    return torch.log1p(step)


def test_a_rule_with_a_feature_of_ones_own_resumes(tmp_path):
    config, path = MetaConfig(meta_steps=4, tasks=2), tmp_path / "rule.pt"
    rules = [MetaOptimizer(context=("log_loss", one_of_my_own)) for _ in range(2)]
    history = meta_train(rules[0], SumRegression(), config, checkpoint=path)
    again = meta_train(rules[1], SumRegression(), config, checkpoint=path, resume=True)
    assert again.records == history.records
    other = MetaOptimizer(context=("log_loss", lambda **seen: seen["loss"]))
    with pytest.raises(ValueError, match="made with another rule: its context"):
        meta_train(other, SumRegression(), config, checkpoint=path, resume=True)
