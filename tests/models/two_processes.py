"""Every memory and model in two processes: what each rank reads, its gradients and its step."""

import json
import os
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import nested.models.hope
from tests.memory.memories import MEMORIES, nudged
from tests.models.models import MODELS
from tests.problems import generator

RANKS, BATCH, TOKENS, CUT, PIECE = 2, 4, 21, 9, 8


def build(name):
    """A memory or model in float64, its inputs, and how ``fully_shard`` should take it apart."""
    torch.manual_seed(0)
    nested.models.hope.PIECE = PIECE  # several pieces in one forward
    kind, name = name.split(": ")
    if kind == "memory":
        x = torch.randn(BATCH, TOKENS, 6, generator=generator(), dtype=torch.float64)
        return nudged(MEMORIES[name](6, 4)), x
    tokens = torch.randint(11, (BATCH, TOKENS), generator=generator())
    return nudged(MODELS[name](8, 4), by=0.02), tokens


NAMES = [f"memory: {name}" for name in MEMORIES] + [f"model: {name}" for name in MODELS]


def shard(module, mesh):
    for block in getattr(module, "blocks", []):
        fully_shard(block, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def whole(tensor):
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()


def one_step(module, x):
    """Read ``x`` in two parts, the state carried on, and step: reads, gradients and weights."""
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    first, state = module(x[:, :CUT])
    second, _ = module(x[:, CUT:], state)
    y = torch.cat([first, second], dim=1)
    y.square().mean().backward()
    grads = [whole(p.grad) for p in module.parameters()]
    optimizer.step()
    return y.detach(), grads, [whole(p) for p in module.parameters()]


def as_one_process(name):
    return one_step(*build(name))


def worker(rank, folder):
    """Put in ``folder`` what every memory and model did under DDP and FSDP2 on this ``rank``."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/meet", world_size=RANKS, rank=rank)
    mesh = init_device_mesh("cpu", (RANKS,))
    ways = {"DDP": DistributedDataParallel, "FSDP2": partial(shard, mesh=mesh)}
    results, said = {}, {}
    for name in NAMES:
        for way, wrap in ways.items():
            module, x = build(name)
            results[way, name] = one_step(wrap(module), x.chunk(RANKS)[rank])
    said = refused(mesh)
    torch.save(results, f"{folder}/{rank}.pt")
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(said, file)
    dist.destroy_process_group()


def refused(mesh):
    """What users read who ask for a state of weights that are not gathered."""

    def parts_alone(module):
        for part in module.levels:
            fully_shard(part, mesh=mesh)
        return module

    def first_state(name):
        return shard(build(name)[0], mesh).init(2)

    tries = {name: partial(first_state, name) for name in NAMES}
    memory, x = build("memory: sequential")
    tries["levels alone"] = partial(parts_alone(memory), x)
    return {name: message(call) for name, call in tries.items()}


def message(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
