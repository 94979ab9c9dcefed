"""Save a training of several processes in shards, and load it with another number of them.

Letters: B texts of the whole batch.
Source: ``torch.distributed.checkpoint``, in files of ``safetensors``: loading runs no code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader as Reader
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter as Writer
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map_only

from nested.levels.forward import State
from nested.memory import pick
from nested.models.processes import Processes

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def save_shards(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    carried: State | None,
    processes: Processes,
) -> dict[str, Any]:
    """Save a model, its optimizers and the state ``carried`` (B, ...) between its windows in a new
    ``folder``: each process writes its share.

    Returns plain data for ``load_shards``. Raises ``ValueError`` if the files cannot be written."""
    copied = tree_map_only(Tensor, torch.clone, carried)  # because levels share tensors
    tensors, plain = _parts(model, optimizers, copied, processes)
    try:
        checkpoint.save(tensors, storage_writer=Writer(str(folder), save_distributed=True))
    except (Exception, checkpoint.CheckpointException) as error:
        raise ValueError(
            f"the checkpoint {str(folder)!r} cannot be written: {_reason(error)}"
        ) from error
    return {"plain": plain, "empty": None if carried is None else pick(carried, [])}


def load_shards(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    about: dict[str, Any],
    batch_size: int,
    processes: Processes,
) -> State | None:
    """Load what ``save_shards`` saved, also with another number of processes, and return the rows
    of this one of the carried state, (B, ...).

    Raises ``ValueError`` if the files cannot be read."""
    rows, place = batch_size // processes.count, processes.device
    carried = tree_map_only(
        Tensor, lambda x: x.new_zeros(rows, *x.shape[1:], device=place), about["empty"]
    )
    tensors, _ = _parts(model, optimizers, carried, processes)
    try:
        checkpoint.load(tensors, storage_reader=Reader(str(folder)))
    except (Exception, checkpoint.CheckpointException) as error:
        raise ValueError(
            f"the checkpoint {str(folder)!r} cannot be read: {_reason(error)}"
        ) from error
    for number, optimizer in enumerate(optimizers):
        start, parts = f"optimizer {number}.", {**tensors, **about["plain"]}
        ours = {name[len(start) :]: x for name, x in parts.items() if name.startswith(start)}
        set_optimizer_state_dict(model, optimizer, ours, options=FLAT)
    return carried


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]


def _parts(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    carried: State | None,
    processes: Processes,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors by name, as they stand, and what is no tensor."""
    parts = {f"model.{n}": x for n, x in get_model_state_dict(model).items()}
    for number, optimizer in enumerate(optimizers):
        state = get_optimizer_state_dict(model, optimizer, options=FLAT)
        parts |= {f"optimizer {number}.{name}": value for name, value in state.items()}
    leaves = [] if carried is None else tree_leaves(carried)
    for number, leaf in enumerate(leaves):  # each process has some of the rows
        parts[f"state {number}"] = DTensor.from_local(leaf.contiguous(), processes.mesh, [Shard(0)])
    tensors = {name: x for name, x in parts.items() if isinstance(x, Tensor)}
    return tensors, {name: x for name, x in parts.items() if name not in tensors}
