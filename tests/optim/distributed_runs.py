"""Runs of every optimizer in two processes and in one, for ``test_distributed``."""

import faulthandler
import warnings
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from nested.optim import DGD, M3, NestedOptimizer, newton_schulz
from tests.optim.runs import OPTIMIZERS

PROCESSES, STEPS, ROWS = 2, 5, 8
LIMIT = timedelta(seconds=60)  # an error in one process must not hang the other
DTYPES = {"float64": torch.float64, "float32": torch.float32}
IN_FLOAT32 = ("DGD", "DeltaMomentum", "DeepMomentum", "M3 in float32", "Nested AdamW")
CASES = [
    (how, name, label)
    for label in DTYPES
    for how in ("ddp", "fsdp")
    for name in OPTIMIZERS
    if label == "float64" or name in IN_FLOAT32
]
SHAPES = [(8, 16), (16, 8), (6, 6), (5, 7), (3, 4)]  # the last are cut unevenly
HALF = StateDictOptions(full_state_dict=True)


class Net(nn.Module):
    """Weights of all kinds: an embedding, a convolution, matrices of uneven rows, vectors."""

    def __init__(self, dtype):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Embedding(7, 8)
            self.conv = nn.Conv1d(8, 5, 3, padding=1)
            self.norm = nn.LayerNorm(5)
            self.wide, self.tall = nn.Linear(5, 16), nn.Linear(16, 3)
            self.last = nn.Linear(3, 1)
        self.to(dtype)

    def forward(self, tokens):  # (B, T) -> (B, T, 1)
        x = self.conv(self.embedding(tokens).mT).mT
        return self.last(self.tall(torch.tanh(self.wide(self.norm(x)))))


def batch(k, dtype):
    generator = torch.Generator().manual_seed(k)
    tokens = torch.randint(7, (ROWS, 4), generator=generator)
    return tokens, torch.randn(ROWS, 4, 1, generator=generator, dtype=torch.float64).to(dtype)


def weights(net):
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]
    return [p.detach().clone() for p in whole]


def run(name, dtype, how, make=None):
    """The weights after some steps: in one process, or in two of which each sees half the rows."""
    net = Net(dtype)
    rank, count = (0, 1) if how == "alone" else (distributed.get_rank(), PROCESSES)
    model = net
    if how == "ddp":
        model = DistributedDataParallel(net)
    elif how == "fsdp":
        for part in (net.conv, net.wide, net.tall, net.last):
            fully_shard(part)
        fully_shard(net)
    optimizer = make(model) if make else OPTIMIZERS[name](net)
    for k in range(STEPS):
        tokens, targets = (x.chunk(count)[rank] for x in batch(k, dtype))
        optimizer.zero_grad()
        reduction = "sum" if name == "DGD sum" else "mean"
        nn.functional.mse_loss(model(tokens), targets, reduction=reduction).backward()
        optimizer.step()
        if how == "fsdp" and k == 2 and dtype == torch.float64:  # saved, and loaded by another
            optimizer.zero_grad()
            saved = get_optimizer_state_dict(net, optimizer, options=HALF)
            optimizer = OPTIMIZERS[name](net)
            set_optimizer_state_dict(net, optimizer, saved, options=HALF)
    if hasattr(optimizer, "flush"):
        optimizer.flush()
    return weights(net)


def attempt(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def orthogonal(shape, dtype, dim):
    """The result and the gradient of ``newton_schulz`` on a matrix that is cut along ``dim``."""
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = distributed.init_device_mesh("cpu", (PROCESSES,))
    generator = torch.Generator().manual_seed(1)
    matrix, weight = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    point = distribute_tensor(matrix, mesh, [Shard(dim)]).requires_grad_()
    found = newton_schulz(point)
    (found * distribute_tensor(weight, mesh, [Shard(dim)])).sum().backward()
    alone = matrix.clone().requires_grad_()
    expected = newton_schulz(alone)
    (expected * weight).sum().backward()
    assert found.placements == point.placements
    pairs = ((found.full_tensor(), expected), (point.grad.full_tensor(), alone.grad))
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in pairs]


def drift(dtype):
    """How far the replicas of a DGD under DDP are apart."""
    after = run("DGD", dtype, "ddp", lambda ddp: DGD(ddp.parameters(), 0.1, module=ddp))
    ours = torch.cat([p.flatten() for p in after])
    both = [torch.empty_like(ours) for _ in range(PROCESSES)]
    distributed.all_gather(both, ours)
    return (both[0] - both[1]).abs().max().item()


def uneven(reduction, rows, how):
    """The weights of a DGD whose processes see 6 rows and 2, or 8 and none, of a batch."""
    torch.manual_seed(0)
    layer, optimizer = nn.Linear(3, 2).double(), None
    x, y = (torch.randn(8, n, dtype=torch.float64) for n in (3, 2))
    parts = [slice(0, rows), slice(rows, 8)]
    if how == "ddp":
        model, parts = DistributedDataParallel(layer), [parts[distributed.get_rank()]]
    else:
        model = layer
    optimizer = DGD(layer.parameters(), 0.3, module=layer, reduction=reduction)
    for _ in range(3):
        optimizer.zero_grad()
        for part in parts:
            errors = (model(x[part]) - y[part]).square().sum()
            if reduction == "mean":  # DDP takes the mean of the processes' means
                errors = errors / max(len(x[part]), 1) / len(parts)
            errors.backward()
        if how == "alone" and reduction == "mean":
            optimizer.rows = {p: _weighted(kept) for p, kept in optimizer.rows.items()}
        optimizer.step()
    return weights(layer)


def _weighted(kept):
    """Rows of means over 6 and 2, so that each mean counts alike."""
    count = sum(map(len, kept.values()))
    return {key: x * (count / len(kept) / len(x)) ** 0.5 for key, x in kept.items()}


def mixed():
    """One step of a NestedOptimizer on a plain tensor and a sharded one."""
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = distributed.init_device_mesh("cpu", (PROCESSES,))
    plain = nn.Parameter(torch.ones(4, 2))
    cut = nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    optimizer = NestedOptimizer([{"params": [plain, cut], "period": 2}], torch.optim.SGD, lr=0.1)
    for _ in range(2):
        plain.grad = torch.ones(4, 2)
        cut.grad = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
        optimizer.step()
    return [plain.detach(), cut.detach().full_tensor()]


def cut_inside():
    """The words that refuse a stack which is cut along another dimension than its first."""
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = distributed.init_device_mesh("cpu", (PROCESSES,))
    M3([nn.Parameter(distribute_tensor(torch.ones(6, 3, 2), mesh, [Shard(1)]))], 0.1)


UNEVEN = [("mean", 6), ("sum", 6), ("sum", 8)]


def in_process(rank, folder):
    faulthandler.enable()  # says where a process has crashed
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # DGD names what it did not see
    store = distributed.FileStore(f"{folder}/store", PROCESSES)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=PROCESSES, timeout=LIMIT
    )
    found = {case: attempt(run, case[1], DTYPES[case[2]], case[0]) for case in CASES}
    for label, dtype in DTYPES.items():
        for shape in SHAPES:
            for dim in (0, 1):
                found["orthogonal", shape, dim, label] = attempt(orthogonal, shape, dtype, dim)
        found["drift", label] = attempt(drift, dtype)
    for reduction, rows in UNEVEN:
        found["uneven", reduction, rows] = attempt(uneven, reduction, rows, "ddp")
    found["mixed"], found["cut inside"] = attempt(mixed), attempt(cut_inside)
    if rank == 0:
        torch.save(found, f"{folder}/found")
    distributed.barrier()  # nobody closes connections that another still reads
    distributed.destroy_process_group()
