"""Save a training of several processes in shards, and load it with another number of them.

Letters: B texts of the whole batch.
Source: ``torch.distributed.checkpoint``, in files of ``safetensors``: loading runs no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
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
from torch.utils._pytree import tree_leaves, tree_map_only

from nested.language.training import Training
from nested.levels.forward import State
from nested.memory import pick

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def save_shards(folder: Path, training: Training) -> dict[str, Any]:
    """Save the tensors of ``training`` in a new ``folder``: each process writes its share.

    Returns plain data for ``load_shards``."""
    # copies, because levels share tensors
    tensors, plain = _parts(training, tree_map_only(Tensor, torch.clone, training.carried))
    checkpoint.save(tensors, storage_writer=Writer(str(folder), save_distributed=True))
    empty = None if training.carried is None else pick(training.carried, [])
    return {"plain": plain, "empty": empty}


def load_shards(folder: Path, training: Training, about: dict[str, Any]) -> None:
    """Load what ``save_shards`` saved, also with another number of processes.

    Raises ``ValueError`` if the files cannot be read."""
    rows, carried = training.config.batch_size // training.processes.count, None
    if about["empty"] is not None:
        place = training.device
        carried = tree_map_only(
            Tensor, lambda x: x.new_zeros(rows, *x.shape[1:], device=place), about["empty"]
        )
    tensors, _ = _parts(training, carried)
    try:
        checkpoint.load(tensors, storage_reader=Reader(str(folder)))
    except (Exception, checkpoint.CheckpointException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"the checkpoint {str(folder)!r} cannot be read: {reason}") from error
    for number, optimizer in enumerate(training.optimizers):
        start, parts = f"optimizer {number}.", {**tensors, **about["plain"]}
        ours = {name[len(start) :]: x for name, x in parts.items() if name.startswith(start)}
        set_optimizer_state_dict(training.model, optimizer, ours, options=FLAT)
    training.carried = carried


def _parts(training: Training, carried: State | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a training by name, as they stand, and what is no tensor."""
    parts = {f"model.{n}": x for n, x in get_model_state_dict(training.model).items()}
    for number, optimizer in enumerate(training.optimizers):
        state = get_optimizer_state_dict(training.model, optimizer, options=FLAT)
        parts |= {f"optimizer {number}.{name}": value for name, value in state.items()}
    leaves = [] if carried is None else tree_leaves(carried)
    for number, leaf in enumerate(leaves):  # each process has some of the rows
        mesh = training.processes.mesh
        parts[f"state {number}"] = DTensor.from_local(leaf.contiguous(), mesh, [Shard(0)])
    tensors = {name: x for name, x in parts.items() if isinstance(x, Tensor)}
    return tensors, {name: x for name, x in parts.items() if name not in tensors}
