"""An unroll leaves the model and the batches as they were, and trains as ``torch.optim`` does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from nested import MetaConfig, functional_loss, meta_train, unroll, unroll_tasks
from nested.levels.lend import call_with
from nested.tasks import Quadratics
from nested.unroll.over_tasks import stack_tasks
from tests.problems import ConstantRule, available, generator, learned_rule

needs_fast = pytest.mark.skipif(not available("compile"), reason="nested/fast was deleted")

mse_loss = nn.functional.mse_loss


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Words(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.table, self.head = nn.Embedding(8, 3, **settings), nn.Linear(3, 3)

    def forward(self, words):
        return self.head(torch.tanh(self.table(words)).mean(1))


class TiedWords(Words):
    """The head's weights are the embedding's: its padding row has a gradient, by the head alone."""

    def __init__(self):
        super().__init__(padding_idx=2)
        self.head = nn.Linear(3, 8)
        self.head.weight = self.table.weight

    def forward(self, words):
        return super().forward(words)[:, :3]


class Remembering(nn.Module):
    """Keeps what it saw and how often, as users' modules do."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls, self.last = nn.Linear(3, 3), 0, None

    def forward(self, x):
        self.calls, self.last = self.calls + 1, self.inner(x)
        return self.last


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(3, 3, batch_first=True)

    def forward(self, x):
        return self.cells(x[:, None])[0][:, 0]


def shared():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


def shared_norm():
    layer = nn.BatchNorm1d(3)
    return nn.Sequential(layer, nn.Linear(3, 3), layer).eval()


def encoder():
    return nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0, batch_first=True)


MODELS = {
    "a layer twice": shared,
    "a layer with buffers twice": shared_norm,
    "a layer in two modules": lambda: nn.Sequential(layers := shared(), nn.Tanh(), layers[0]),
    "tied weights": Tied,
    "tied to an embedding": TiedWords,
    "in place first": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3)),
    "in place first, not plain": lambda: nn.Sequential(nn.ELU(inplace=True), nn.LayerNorm(3)),
    "in place later": lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(True), nn.Linear(3, 3)),
    "weight norm by hooks": lambda: nn.utils.weight_norm(nn.Linear(3, 3)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral norm by hooks": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)).eval(),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 3)).eval(),
    "padding": lambda: Words(padding_idx=2),
    "sparse": lambda: Words(sparse=True),
    "remembering": Remembering,
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "attention": encoder,
}
PLAIN_HIGHER = (
    "weight norm by hooks",
    "spectral norm by hooks",
)  # whose weights higher moves alone


def draw(name, steps=4, seed=0):
    """The model called ``name`` in float64, and its batches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[name]().double()
        takes_words = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules())
        batches = []
        for _ in range(steps):
            words, x = torch.randint(0, 8, (5, 4)), torch.randn(5, 3, dtype=torch.float64)
            batches.append((words if takes_words else x, torch.randn(5, 3, dtype=torch.float64)))
    return model, batches


def attributes(model):
    """What every module holds, by identity, and the values of its tensors."""
    return [
        {name: id(value) for name, value in vars(each).items() if name != "_flat_weights"}
        for each in model.modules()
    ]


def trained_by_torch(model, batches, lr, momentum):
    """The losses of a usual training loop on a copy of ``model``, which may write to batches."""
    model, batches = copy.deepcopy(model), copy.deepcopy(batches)
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = False  # SGD with momentum takes dense gradients alone
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum)
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("backend", available("eager", "checkpoint", "higher"))
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_torch_does_and_leaves_no_trace(name, backend):
    model, batches = draw(name)
    if name in PLAIN_HIGHER and backend == "higher":
        pytest.skip("higher drops the hooks that make the weight")
    expected = (
        None if "hooks" in name else trained_by_torch(model, batches, 0.1, 0.5)
    )  # such a model cannot be copied
    before, values = attributes(model), copy.deepcopy(model.state_dict())
    kept = copy.deepcopy(batches)
    rule, loss_fn = ConstantRule(0.1, 0.5), functional_loss(model, mse_loss)
    runs = [
        unroll(loss_fn, dict(model.named_parameters()), batches, rule, backend=backend)
        for _ in range(2)
    ]
    runs[0].losses[-1].backward()
    assert torch.equal(runs[0].losses, runs[1].losses)
    if expected is not None:
        torch.testing.assert_close(runs[0].losses.detach(), expected, rtol=1e-10, atol=1e-12)
    assert attributes(model) == before
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(*pair) for a, b in zip(batches, kept) for pair in zip(a, b))


@pytest.mark.parametrize("name", MODELS)
def test_tasks_are_those_taken_one_by_one(name):
    """Whatever torch.vmap has no rule for, or a wrong one: padding rows from the second task on."""
    tasks = [draw(name, steps=3, seed=seed) for seed in range(3)]
    model, rule = tasks[0][0], learned_rule()
    loss_fn = functional_loss(model, mse_loss)
    names = [name for name, _ in model.named_parameters()]
    starts = [{n: p.detach() for n, p in each.named_parameters()} for each, _ in tasks]
    batches = [stack_tasks([b[k] for _, b in tasks]) for k in range(3)]
    together = unroll_tasks(loss_fn, stack_tasks(starts), batches, rule)
    alone = [unroll(loss_fn, start, b, rule) for start, (_, b) in zip(starts, tasks)]
    expected = torch.stack([run.losses for run in alone])
    torch.testing.assert_close(together.losses, expected, rtol=1e-9, atol=1e-11)
    learned = list(rule.parameters())
    ours = torch.autograd.grad(together.losses[:, -1].sum(), learned, allow_unused=True)
    theirs = torch.autograd.grad(expected[:, -1].sum(), learned, allow_unused=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
    for name in names:
        ends = torch.stack([run.params[name] for run in alone])
        torch.testing.assert_close(together.params[name], ends, rtol=1e-9, atol=1e-11)


@needs_fast
def test_the_compiled_backend_leaves_padding_rows_of_all_tasks_alone():
    model, batches = draw("padding")
    start = {name: p.detach() for name, p in model.named_parameters()}
    run = unroll_tasks(
        functional_loss(model, mse_loss),
        stack_tasks([start] * 2),
        [stack_tasks([batch] * 2) for batch in batches],
        ConstantRule(0.1, 0.5),
        backend="compile",
    )
    rows = run.params["table.weight"][:, 2]
    assert torch.equal(rows, start["table.weight"][2].expand(2, -1))
    expected = trained_by_torch(model, batches, 0.1, 0.5).expand(2, -1)
    torch.testing.assert_close(run.losses.detach(), expected, rtol=1e-10, atol=1e-12)


@needs_fast
def test_the_compiled_backend_takes_a_layer_that_stands_twice():
    model, batches = draw("a layer twice")
    params, rule = dict(model.named_parameters()), ConstantRule(0.1, 0.5)
    before = attributes(model)
    run = unroll(functional_loss(model, mse_loss), params, batches, rule, backend="compile")
    expected = trained_by_torch(model, batches, 0.1, 0.5)
    torch.testing.assert_close(run.losses.detach(), expected, rtol=1e-10, atol=1e-12)
    assert attributes(model) == before


@pytest.mark.parametrize(
    "model",
    [
        Words(max_norm=0.1),
        nn.EmbeddingBag(8, 3, max_norm=0.1, mode="sum"),
        nn.utils.spectral_norm(nn.Linear(3, 3)),
        parametrizations.spectral_norm(nn.Linear(3, 3)),
        nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    ],
)
@pytest.mark.parametrize("backend", available("eager", "checkpoint", "higher"))
@pytest.mark.parametrize("many", [False, True])
def test_a_model_that_writes_to_its_tensors_is_refused_and_unchanged(model, backend, many):
    takes_words = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules())
    inputs = torch.randint(0, 8, (5, 4)) if takes_words else torch.randn(5, 3)
    values = {key: value.clone() for key, value in model.state_dict().items()}
    params, batches = dict(model.named_parameters()), [(inputs, torch.randn(5, 3))] * 2
    if many:
        params, batches = stack_tasks([params] * 2), [stack_tasks([b] * 2) for b in batches]
    with pytest.raises(ValueError, match=r"writes to its (weights|buffers).*in the forward pass"):
        run = unroll_tasks if many else unroll
        run(
            functional_loss(model, mse_loss),
            params,
            batches,
            ConstantRule(0.1, 0.5),
            backend=backend,
        )
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())


def test_a_model_that_writes_to_a_batch_later_says_so():
    class Late(nn.Linear):
        def forward(self, x):
            return super().forward(x.neg_() if x[0, 0] > 0 else x)

    model = Late(3, 3)
    loss_fn, params = functional_loss(model, mse_loss), dict(model.named_parameters())
    x = torch.rand(5, 3)
    loss_fn(params, (-x, x))
    with pytest.raises(ValueError, match="wrote to a batch: let it write to a copy"):
        loss_fn(params, (x.clone(), x))


def test_a_rule_with_a_layer_that_stands_twice_is_unchanged_by_evolution():
    class Deep(ConstantRule):
        def __init__(self):
            super().__init__(0.1, 0.5)
            layer = nn.Linear(1, 1)
            self.net = nn.Sequential(layer, nn.Tanh(), layer)

        def forward(self, params, grads, state, loss):
            step = super().forward(params, grads, state, loss)
            return step._replace(
                signals={"s": step.signals["lr"] + self.net(self.lr[None].float())[0]}
            )

    rule = Deep().float()
    config = MetaConfig(meta_steps=2, unroll_length=2, max_horizon=2, tasks=4, estimator="pes")
    meta_train(rule, Quadratics(), config)
    assert rule.net[0] is rule.net[2]
    assert all(isinstance(p, nn.Parameter) for p in rule.net[0].parameters())


def test_call_with_replaces_a_tensor_under_all_its_names():
    model, x = Tied(), torch.randn(5, 3, generator=generator())
    weight = torch.eye(3)
    outputs = call_with(model, {"a.weight": weight}, x)
    expected = torch.tanh(x + model.a.bias) + model.b.bias
    torch.testing.assert_close(outputs, expected)
    assert model.a.weight is model.b.weight


def test_cached_parametrizations_are_refused():
    model = parametrizations.weight_norm(nn.Linear(3, 3))
    batches = [(torch.randn(5, 3), torch.randn(5, 3))] * 2
    with parametrize.cached(), pytest.raises(ValueError, match="keeps the weights of its first"):
        params = dict(model.named_parameters())
        unroll(functional_loss(model, mse_loss), params, batches, ConstantRule(0.1, 0.5))
