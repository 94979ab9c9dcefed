"""What does not fit together is refused in one sentence."""

import pytest
import torch
from torch import nn

from nested import MetaOptimizer, Step, UpdateRule, functional_loss, unroll, unroll_tasks
from tests.problems import ConstantRule, learned_rule, problem, repeat_tasks


@pytest.fixture
def parts():
    loss_fn, params, batches, _ = problem(3)
    return loss_fn, params, batches, learned_rule()


@pytest.fixture(params=["unroll", "unroll_tasks"])
def start(request):
    """Either door, taking the parts of one task."""
    if request.param == "unroll":
        return unroll

    def start_tasks(loss_fn, params, batches, rule, state=None, **how):
        how["state"] = state if state is None else repeat_tasks(state)
        params = repeat_tasks(params) if isinstance(params, dict) else params
        if isinstance(batches, list):
            batches = [repeat_tasks(b) for b in batches]
        return unroll_tasks(loss_fn, params, batches, rule, **how)

    return start_tasks


def test_an_empty_batch_list(start, parts):
    loss_fn, params, _, rule = parts
    with pytest.raises(ValueError, match="batches is empty"):
        start(loss_fn, params, [], rule)


def test_a_bare_pair_is_not_taken_for_two_batches(start, parts):
    loss_fn, params, batches, rule = parts
    with pytest.raises(TypeError, match=r"batches is a list.*got tuple; wrap a single"):
        start(loss_fn, params, batches[0], rule)


def test_params_that_are_no_dict(start, parts):
    loss_fn, params, batches, rule = parts
    with pytest.raises(TypeError, match="params is a dict of tensors"):
        start(loss_fn, list(params.values()), batches, rule)


def test_params_of_another_model(start, parts):
    loss_fn, params, batches, rule = parts
    params["extra"] = params.pop("0.weight")
    with pytest.raises(ValueError, match=r"missing \['0.weight'\], unknown \['extra'\]"):
        start(loss_fn, params, batches, rule)


def test_a_rule_that_is_none(start, parts):
    loss_fn, params, batches, _ = parts
    with pytest.raises(TypeError, match="rule must be an UpdateRule, but got SGD"):
        start(loss_fn, params, batches, torch.optim.SGD(params.values()))


def test_a_loss_that_is_no_scalar(start, parts):
    _, params, batches, rule = parts
    with pytest.raises(ValueError, match=r"must be a scalar, but got shape \(5, 2\)"):
        start(functional_loss(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(),
              nn.MSELoss(reduction="none")), params, batches, rule)  # fmt: skip


def test_a_loss_that_is_no_tensor(parts):
    _, params, batches, rule = parts
    with pytest.raises(TypeError, match="must be a scalar tensor, but got float"):
        unroll(lambda p, b: 1.0, params, batches, rule)


def test_a_loss_that_no_weight_has_a_part_in(parts):
    _, params, batches, rule = parts
    with pytest.raises(ValueError, match="does not depend on the params"):
        unroll(lambda p, b: torch.tensor(1.0), params, batches, rule)


class Wrong(UpdateRule):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def init(self, params):
        return {}

    def forward(self, params, grads, state, loss):
        if self.how == "shape":
            params = {name: p[None] for name, p in params.items()}
        if self.how == "dtype":
            params = {name: p.float() for name, p in params.items()}
        if self.how == "signals":
            return Step(params, state, {"lr": 0.1})
        if self.how == "names":
            params = {name.upper(): p for name, p in params.items()}
        return (params, state) if self.how == "tuple" else Step(params, state, {})


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            "shape",
            ValueError,
            r"returned '0.weight' with shape \(.*1, 4, 3\) .* given shape \(.*4, 3\)",
        ),
        ("dtype", ValueError, "and torch.float32, but it was given .* and torch.float64"),
        ("names", ValueError, "returned params"),
        ("tuple", TypeError, "must return a Step, but got tuple"),
    ],
)
def test_a_rule_that_returns_something_else(start, parts, how, error, message):
    loss_fn, params, batches, _ = parts
    with pytest.raises(error, match=message):
        start(loss_fn, params, batches, Wrong(how))


def test_a_rule_whose_signals_are_floats(parts):
    loss_fn, params, batches, _ = parts
    with pytest.raises(TypeError, match="signals that are not tensors"):
        unroll(loss_fn, params, batches, Wrong("signals"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", ["eager", "higher"])
def test_data_that_are_not_finite(start, parts, bad, backend):
    loss_fn, params, batches, rule = parts
    batches[1][0][2, 1] = bad
    with pytest.raises(ValueError, match=r"batches\[1\] has values that are not finite"):
        start(loss_fn, params, batches, rule, backend=backend)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_data_that_are_not_finite_in_the_last_batch_alone(start, parts, bad):
    """The losses may all be finite: only the weights after the last update are not."""
    loss_fn, params, batches, rule = parts
    batches[2][0][2, 1] = bad
    with pytest.raises(ValueError, match=r"batches\[2\] has values that are not finite"):
        start(loss_fn, params, batches, rule)


def test_a_batch_without_rows(start, parts):
    loss_fn, params, batches, rule = parts
    batches[1] = tuple(part[:0] for part in batches[1])
    with pytest.raises(ValueError, match=r"batches\[1\] is empty"):
        start(loss_fn, params, batches, rule)


def test_a_state_of_something_else(start, parts):
    for state in ({}, {"momentum": {}, "step": torch.zeros(2)}):
        with pytest.raises(ValueError, match="state is not one of this rule"):
            start(*parts, state=state)


def test_params_of_whole_numbers(start, parts):
    loss_fn, params, batches, rule = parts
    params = {name: p.detach().long() for name, p in params.items()}
    with pytest.raises(TypeError, match="params are tensors of floats, but '0.weight' has shape"):
        start(loss_fn, params, batches, rule)


def test_no_tasks_at_all(parts):
    _, params, batches, rule = parts
    none = {name: p[None][:0] for name, p in params.items()}
    with pytest.raises(ValueError, match="same leading task dimension"):
        unroll_tasks(parts[0], none, [tuple(x[None][:0] for x in batches[0])], rule)


def test_higher_refuses_a_momentum_of_zero_and_moves_that_are_not_its_own(parts):
    loss_fn, params, batches, _ = parts
    with pytest.raises(TypeError, match="momentum of exactly 0"):
        unroll(loss_fn, params, batches, ConstantRule(0.1, 0.0), backend="higher")

    class Decaying(ConstantRule):
        def forward(self, *arguments):
            step = super().forward(*arguments)
            return step._replace(params={name: 0.9 * p for name, p in step.params.items()})

    with pytest.raises(TypeError, match="moved '0.weight' otherwise"):
        unroll(loss_fn, params, batches, Decaying(0.1, 0.5), backend="higher")


def test_a_run_that_diverges_on_good_data_is_returned(start):
    loss_fn, params, batches, _ = problem(40)
    trajectory = start(loss_fn, params, batches, ConstantRule(1e30, 0.0), differentiable=False)
    assert not torch.isfinite(trajectory.losses).all()


def test_an_unknown_backend(start, parts):
    with pytest.raises(ValueError, match="there is no backend 'fast'; choose one of"):
        start(*parts, backend="fast")


def test_tasks_that_do_not_agree_on_their_number(parts):
    loss_fn, params, batches, rule = parts
    with pytest.raises(ValueError, match="same leading task dimension.*2, 3"):
        unroll_tasks(loss_fn, repeat_tasks(params), [repeat_tasks(batches[0], 3)], rule)
    with pytest.raises(ValueError, match="same leading task dimension"):
        unroll_tasks(loss_fn, {"w": torch.tensor(1.0)}, [torch.tensor(1.0)], rule)


def test_higher_says_what_it_cannot_serve(parts):
    loss_fn, params, batches, rule = parts
    with pytest.raises(TypeError, match="needs a loss made by functional_loss"):
        unroll(lambda p, b: loss_fn(p, b), params, batches, rule, backend="higher")
    with pytest.raises(TypeError, match="keeps state"):
        unroll(loss_fn, params, batches, Wrong("nothing"), backend="higher")

    class ThreeSignals(MetaOptimizer):
        def forward(self, *arguments):
            step = super().forward(*arguments)
            return step._replace(signals={**step.signals, "decay": step.signals["lr"]})

    with pytest.raises(TypeError, match="signals are the scalars lr and momentum"):
        unroll(loss_fn, params, batches, ThreeSignals().double(), backend="higher")


class Counts(torch.nn.Module):
    """Keeps what it has seen in a buffer, by its own code."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, inputs):
        self.seen += inputs.detach().sum(0)
        return self.layer(inputs)


def test_a_model_that_writes_to_a_buffer_is_refused_with_many_tasks_too(parts):
    model = Counts()
    loss_fn = functional_loss(model, torch.nn.functional.mse_loss)
    params = {name: torch.stack([p, p]) for name, p in model.named_parameters()}
    batch = torch.randn(2, 4, 3), torch.randn(2, 4, 1)
    with pytest.raises(ValueError, match="writes to its buffers"):
        unroll_tasks(loss_fn, params, [batch], MetaOptimizer())


def test_signals_that_change_their_names(start, parts):
    class Moody(type(parts[3])):
        def forward(self, params, grads, state, loss):
            step = super().forward(params, grads, state, loss)
            late = state["step"] > 0 if state["step"].dim() == 0 else False
            return step._replace(signals={"lr": step.signals["lr"]} if late else step.signals)

    loss_fn, params, batches, _ = parts
    if start is unroll:  # under vmap a rule cannot branch on values, so its names cannot change
        with pytest.raises(ValueError, match="names of the rule's signals change"):
            start(loss_fn, params, batches, Moody().double())


@pytest.mark.parametrize("part", ["params", "signals"])
def test_a_step_whose_parts_are_no_dicts(start, parts, part):
    class Wrong(type(parts[3])):
        def forward(self, params, grads, state, loss):
            return super().forward(params, grads, state, loss)._replace(**{part: loss})

    loss_fn, params, batches, _ = parts
    with pytest.raises(TypeError, match="must return its params and its signals as dicts"):
        start(loss_fn, params, batches, Wrong().double())


def test_a_state_of_another_number_of_tasks(parts):
    loss_fn, params, batches, rule = parts
    state = repeat_tasks(repeat_tasks(rule.init(params)))
    params, batches = repeat_tasks(params), [repeat_tasks(batch) for batch in batches]
    with pytest.raises(ValueError, match="same leading task dimension"):
        unroll_tasks(loss_fn, params, batches, rule, {**state, "step": torch.zeros(17)})
