"""A learned optimizer where its rule was not taught: it climbs once, goes back, and trains."""

import copy
import io
import math
import pydoc
import warnings

import pytest
import torch
from torch import nn

from nested.rules import CoordinatewiseRule, LearnedOptimizer, load_rule
from nested.rules.train import curriculum
from nested.tasks import Digits
from tests.problems import generator

STEPS, WIDTH, LENGTH = 100, 48, 32  # of the runs on text


def text():
    """Bytes of Python's own documentation."""
    words = " ".join(getattr(pydoc, name).__doc__ or "" for name in dir(pydoc))
    source = open(pydoc.__file__, encoding="utf-8").read()
    return torch.frombuffer(bytearray((words + source).encode()), dtype=torch.uint8).long()


class SmallTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 96, 0.0, batch_first=True, norm_first=True)
        self.embed, self.head = nn.Embedding(256, WIDTH), nn.Linear(WIDTH, 256)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward(self, tokens):
        x = self.embed(tokens) + self.position
        return self.head(self.encoder(x, mask=self.mask, is_causal=True))


def train_on_text(make, seed, sees_loss=False, clip=None):
    """The losses of a run, and its optimizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallTransformer()
    optimizer, pages, g, losses = make(net.parameters()), text(), generator(seed), []
    for _ in range(STEPS):
        starts = torch.randint(len(pages) - LENGTH, (8, 1), generator=g)
        batch = pages[starts + torch.arange(LENGTH + 1)]
        logits = net(batch[:, :-1]).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step(**({"loss": loss} if sees_loss else {}))
        losses.append(loss.item())
    return losses, optimizer


def learned(params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LearnedOptimizer.from_pretrained(params=params, total_steps=STEPS)


def end(losses):
    return sum(losses[-10:]) / 10


@pytest.mark.filterwarnings("ignore:the loss climbed")
@pytest.mark.parametrize("seed", range(3))
def test_on_a_transformer_it_ends_near_adamw(seed):
    theirs, _ = train_on_text(lambda params: torch.optim.AdamW(params, 3e-3), seed)
    for sees_loss, clip in ((False, None), (True, 1.0)) if seed == 0 else ((False, None),):
        ours, optimizer = train_on_text(learned, seed, sees_loss, clip)
        assert end(ours) < 1.25 * end(theirs)
        assert 0.01 < optimizer.trust < 1
        assert sorted(ours)[-7] < 1.5 * ours[0]  # it was far up for six steps at most


@pytest.mark.parametrize("family", curriculum()[3:], ids=["3", "4", "5", "6"])
def test_where_it_was_taught_it_moves_as_the_rule_does(family):
    task, steps = family.sample(generator(1)), 40
    params = {name: nn.Parameter(p) for name, p in task.init(generator(2)).items()}
    alone, g = {name: p.detach().clone() for name, p in params.items()}, generator(3)
    rule = load_rule().for_horizon(steps)
    optimizer, state = learned(list(params.values())), rule.init(alone)
    optimizer = LearnedOptimizer(list(params.values()), rule)
    for step in range(steps):
        loss = task.loss(params, task.batch(g))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        grads = {name: p.grad for name, p in params.items()}
        with torch.no_grad():
            alone, state, _ = rule(alone, grads, state, loss)
    assert optimizer.trust == 1
    assert all(torch.equal(params[name], alone[name]) for name in params)


def test_a_climb_is_taken_back_with_one_warning_and_its_gradient_left_out():
    weights = nn.Parameter(0.01 * torch.ones(4))
    optimizer = LearnedOptimizer([weights], CoordinatewiseRule(), total_steps=50)

    def move():
        optimizer.zero_grad()
        weights.pow(2).sum().backward()  # a step of 0.02 goes to 0.01 on the other side, and so on
        weights.grad *= 100.0 if abs(weights.detach().mean()) > 0.015 else 1.0
        optimizer.step()

    start = weights.detach().clone()
    optimizer.param_groups[0]["lr"] = 2.0  # to - 0.03: 3 times as far, and 300 times as steep
    move()
    far, state = weights.detach().clone(), copy.deepcopy(optimizer.state[weights])
    with pytest.warns(UserWarning, match="the loss climbed after a step of this rule"):
        move()
    assert not torch.equal(far, start) and torch.equal(weights, start)
    assert torch.equal(optimizer.state[weights]["momenta"], state["momenta"])
    assert optimizer.trust == 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once
        for _ in range(40):
            move()
    assert weights.abs().max() < 0.01


@pytest.mark.filterwarnings("ignore:the loss climbed")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_left(value):
    weights = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([weights], CoordinatewiseRule(), total_steps=50)
    before = []
    for step in range(3):
        weights.grad = weights.detach().clone()
        before.append(weights.detach().clone())
        optimizer.step(loss=torch.tensor(value if step == 2 else 1.0))
    assert torch.equal(weights, before[1]) and optimizer.trust == 0.25
    weights.grad = torch.full((3,), math.nan)
    optimizer.step()
    assert weights.isfinite().all()


@pytest.mark.filterwarnings("ignore:the loss climbed")
def test_a_run_that_climbed_goes_on_from_its_saved_state_bit_for_bit():
    def made():
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        nn.init.constant_(net[0].weight, 0.01)
        return net, LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=30)

    def train(net, optimizer, steps):
        for k in steps:
            x = torch.randn(5, 4, generator=generator(k))
            optimizer.zero_grad()
            (10 * net(x).square().sum() * (1 + k % 7) ** 3).backward()
            optimizer.step()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        (whole, first), (cut, second) = made(), made()
    cut.load_state_dict(whole.state_dict())
    for optimizer in (first, second):
        optimizer.param_groups[0]["lr"] = 8.0
    train(whole, first, range(20))
    assert first.trust < 1
    for k in range(20):
        train(cut, second, [k])
        file = io.BytesIO()
        torch.save(second.state_dict(), file)
        file.seek(0)
        second = LearnedOptimizer(cut.parameters(), CoordinatewiseRule(), total_steps=30)
        second.load_state_dict(torch.load(file, weights_only=True))
    assert second.trust == first.trust
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters()))


def test_it_says_once_where_it_was_not_taught():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 10))
    with pytest.warns(UserWarning, match="was not trained on such a net or run") as warned:
        LearnedOptimizer.from_pretrained(params=net.parameters(), total_steps=5000)
    assert len(warned) == 1
    said = str(warned[0].message)
    assert "90 weights (trained on 1,482 to 4,810)" in said
    assert "4 dimensions of a tensor (trained on 2 to 2)" in said
    assert "5,000 steps (trained on 10 to 700)" in said
    task = Digits().sample(generator())
    params = [nn.Parameter(p) for p in task.init(generator()).values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LearnedOptimizer.from_pretrained(params=params, total_steps=100)
