"""What a rule sees of a parameter: matrices, vectors and stacks; and shards, over two processes."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from nested import MetaOptimizer
from nested.rules import CoordinatewiseRule, LearnedOptimizer
from nested.rules.coordinatewise import LARGE
from tests.problems import generator

STEPS = 4


def moved(groups, rule=CoordinatewiseRule):
    """Parameters after some steps, on gradients that are the same numbers in any shapes."""
    optimizer = LearnedOptimizer(groups, rule().for_horizon(20))
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for k in range(STEPS):
        numbers = torch.randn(sum(p.numel() for p in params), generator=generator(k))
        for p, part in zip(params, numbers.split([p.numel() for p in params])):
            p.grad = part.view(p.shape)
        optimizer.step(loss=torch.tensor(1.0 / (k + 1)))
    return [p.detach() for p in params]


def drawn(*shape):
    return nn.Parameter(0.3 * torch.randn(shape, generator=generator(9)))


@pytest.mark.parametrize("rule", [CoordinatewiseRule, MetaOptimizer])
@pytest.mark.parametrize("shape", [(6, 5), (5, 2, 3), (LARGE // 8, 9)])
def test_what_is_no_matrix_moves_as_a_vector(shape, rule):
    whole = drawn(*shape)
    flat = nn.Parameter(whole.detach().flatten().clone())
    ours = moved([{"params": [whole], "matrices": False}], rule)
    theirs = moved([{"params": [flat]}], rule)
    assert torch.equal(ours[0].flatten(), theirs[0])
    if rule is CoordinatewiseRule:
        assert not torch.allclose(moved([{"params": [drawn(*shape)]}])[0], ours[0], atol=1e-4)


@pytest.mark.parametrize("rule", [CoordinatewiseRule, MetaOptimizer])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 2, 3, 4), (1, 4, 5), (2, LARGE // 64, 65)])
def test_a_stack_moves_as_its_matrices_do(shape, rule):
    stack = drawn(*shape)
    pieces = stack.detach().clone().view(-1, *shape[-2:]).unbind(0)
    params = [nn.Parameter(piece.clone()) for piece in pieces]
    ours = moved([{"params": [stack], "matrices": "stacks"}], rule)
    theirs = moved([{"params": params}], rule)
    assert torch.equal(ours[0].view(-1, *shape[-2:]), torch.stack(theirs))


def test_a_stack_saves_and_loads_the_state_of_each_matrix():
    def made():
        stack = drawn(3, 4, 5)
        groups = [{"params": [stack], "matrices": "stacks"}]
        return stack, LearnedOptimizer(groups, CoordinatewiseRule(), total_steps=9)

    def step(stack, optimizer, k):
        stack.grad = torch.randn(3, 4, 5, generator=generator(k))
        optimizer.step()

    (whole, first), (cut, second) = made(), made()
    for k in range(6):
        step(whole, first, k)
        step(cut, second, k)
        saved, (cut_again, second) = second.state_dict(), made()
        second.load_state_dict(saved)
        cut_again.data.copy_(cut)
        cut = cut_again
    assert torch.equal(whole, cut)


def test_saved_states_keep_the_names_of_older_versions():
    matrix, stack = drawn(4, 3), drawn(2, 4, 3)
    groups = [{"params": [matrix]}, {"params": [stack], "matrices": "stacks"}]
    optimizer = LearnedOptimizer(groups, CoordinatewiseRule(), total_steps=9)
    for p in (matrix, stack):
        p.grad = torch.ones_like(p)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["state"][0].keys() == {"momenta", "square", "shape", "kept weight"}
    pieces = {"momenta.0", "momenta.1", "square.0", "square.1"}
    assert saved["state"][1].keys() == {*pieces, "shape", "kept weight"}
    assert all(g["shared"].keys() == {"step", "total"} for g in saved["param_groups"])


def test_another_value_is_refused():
    with pytest.raises(ValueError, match="matrices is one of .* but got 'rows'"):
        moved([{"params": [drawn(3, 3)], "matrices": "rows"}])


@pytest.mark.parametrize("rule", [CoordinatewiseRule, MetaOptimizer])
def test_a_look_at_the_state_of_a_new_optimizer_is_no_step(rule):
    nets, ends = [], []
    for is_looked_at in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Linear(4, 3)
        optimizer = LearnedOptimizer(net.parameters(), rule().for_horizon(20))
        if is_looked_at:
            state = get_optimizer_state_dict(net, optimizer)
            assert state["state"]["weight"] and optimizer.param_groups[0]["lr"] == 1
        for k in range(STEPS):
            optimizer.zero_grad()
            loss = net(torch.randn(5, 4, generator=generator(k))).square().mean()
            loss.backward()
            optimizer.step(loss=loss)
        nets.append(net)
        ends.append(net.weight.detach())
    assert torch.equal(*ends)


# ------------------------------------------------------------------------- over two processes
def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(9, 13), nn.Tanh(), nn.Linear(13, 11), nn.Tanh(), nn.Linear(11, 3)
        )


def train(net, rule, rows):
    optimizer = LearnedOptimizer(net.parameters(), rule.for_horizon(20))
    for k in range(6):
        inputs = torch.randn(8, 9, generator=generator(k))[rows]
        targets = torch.randn(8, 3, generator=generator(99 + k))[rows]
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(inputs), targets)
        loss.backward()
        optimizer.step(loss=loss)
    return optimizer


RULES = {"coordinatewise": CoordinatewiseRule, "meta": MetaOptimizer}


def wrapped(kind, net):
    if kind == "DDP":
        return DistributedDataParallel(net)
    mesh = init_device_mesh("cpu", (2,))
    if kind == "mixed":  # one layer in shards, the others whole and alike, as their gradients
        fully_shard(net[2], mesh=mesh)
        for layer in (net[0], net[4]):
            for p in layer.parameters():
                p.register_hook(lambda grad: _mean(grad))
        return net
    return fully_shard(net, mesh=mesh)


def _mean(grad):
    total = grad.clone()
    dist.all_reduce(total)
    return total / 2


def work(rank, port, found):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    for kind in ("DDP", "FSDP", "mixed"):
        for name, rule in RULES.items():
            net = make_net()
            train(wrapped(kind, net), rule(), slice(4 * rank, 4 * rank + 4))
            ends = [p.detach() for p in net.parameters()]
            ends = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in ends]
            found[rank, kind, name] = [p.numpy() for p in ends]
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    found = context.Manager().dict()
    workers = [context.Process(target=work, args=(rank, port, found)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
        worker.kill()
    return dict(found)


@pytest.mark.parametrize("kind", ["DDP", "FSDP", "mixed"])
@pytest.mark.parametrize("name", RULES)
def test_two_processes_train_as_one_does(two_processes, kind, name):
    net = make_net()
    train(net, RULES[name](), slice(None))
    for rank in range(2):
        ends = two_processes[rank, kind, name]
        for ours, theirs in zip(ends, net.parameters(), strict=True):
            assert (torch.from_numpy(ours) - theirs).abs().max() < 1e-6
