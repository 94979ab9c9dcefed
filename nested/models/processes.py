"""Train in several processes: replicas of a model (DDP), or a model in shards (FSDP2).

Letters: B texts of the whole batch, of which each of P processes reads B / P.
Source: ``torch.distributed``, started by ``torchrun``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nested.levels.forward import State
from nested.models.model import SequenceModel
from nested.support.device import find_device

if TYPE_CHECKING:  # shards take almost a second to import, and few programs use them
    from torch.distributed.device_mesh import DeviceMesh

KINDS = ("ddp", "fsdp")


@dataclass(frozen=True)
class Processes:
    """The ``count`` processes of a training, of which this one is number ``rank``.

    ``kind`` is None for one process, "ddp" or "fsdp". Values are shared on ``device``."""

    device: torch.device
    kind: str | None = None
    rank: int = 0
    count: int = 1

    def wrap(self, model: SequenceModel) -> nn.Module:
        """Return what reads tokens: the ``model``, sharded in place, or a replica around it."""
        for block in model.blocks:
            block.register_forward_hook(_use_all_weights)
        if self.kind == "ddp":
            ids = [self.device.index] if self.device.type == "cuda" else None
            return DistributedDataParallel(model, device_ids=ids)
        if self.kind == "fsdp":
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

            for block in model.blocks:
                fully_shard(block, mesh=self.mesh)
                register_fsdp_forward_method(block, "init")
            fully_shard(model, mesh=self.mesh)
        return model

    @property
    def mesh(self) -> DeviceMesh:
        """The processes, in one dimension."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self.device.type, (self.count,))

    def weights(self, model: SequenceModel) -> dict[str, Tensor]:
        """Gather the weights of ``model`` in the first process: {name: tensor (...)}."""
        if self.kind != "fsdp":
            return model.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(model, options=options)

    def rows(self, x: Tensor) -> Tensor:
        """Return the rows of this process, (B / P, ...), of ``x`` (B, ...)."""
        return x.chunk(self.count)[self.rank]

    def total(self, value: float) -> float:
        """Add up the ``value`` of each process."""
        if self.kind is None:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.item()

    def first(self, value: float) -> float:
        """Return the ``value`` of the first process."""
        return self.total(value if self.rank == 0 else 0.0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.kind is not None:
            dist.barrier()


def _use_all_weights(block: nn.Module, inputs: tuple, output: tuple[Tensor, State]) -> tuple:
    """Give each weight of ``block`` a gradient, also where no token has used it.

    The writer of a slow level is used only when its clock ticks, in some processes and not in
    others. Processes can add up gradients only if all of them have the same ones."""
    if not torch.is_grad_enabled():
        return output
    x, state = output
    return x + 0 * sum(weight.reshape(-1)[0] for weight in block.parameters()), state


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor (...) of which each process may have a share."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def joined(kind: str | None, device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started, on ``device``, or those of the process
    group that is there already.

    Raises ``ValueError`` for another ``kind``, and if there are none."""
    place = find_device(device)
    if kind is None:
        yield Processes(place)
        return
    if kind not in KINDS:
        raise ValueError(f"parallel is one of {', '.join(KINDS)}, but got {kind!r}")
    if "RANK" not in os.environ:
        raise ValueError(
            "processes are started by torchrun: torchrun --nproc-per-node 2 -m nested.language"
            f" train --parallel {kind}"
        )
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    is_ours = not dist.is_initialized()
    if is_ours:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(place, kind, dist.get_rank(), dist.get_world_size())
        dist.barrier()  # nobody closes connections that another still reads
    finally:
        if is_ours:
            dist.destroy_process_group()
