"""Send the records of a training to TensorBoard or Weights & Biases, which need no network here.

Source: the libraries ``tensorboard`` and ``wandb``, the latter in its offline mode.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nested.support.extras import needed

LOGS = ("tensorboard", "wandb")
Show = Callable[[dict[str, Any]], None]


def log_to(name: str, folder: Path) -> Show:
    """Return a function that logs records in ``folder``, by the library called ``name``.

    Raises ``ValueError`` for another name, and if the library is missing."""
    if name not in LOGS:
        raise ValueError(f"log is one of {', '.join(LOGS)}, but got {name!r}")
    library = needed(name, "log")
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(folder / name)

        def show(record: dict[str, Any]) -> None:
            for key, value in _numbers(record).items():
                writer.add_scalar(key, value, record["step"])
            if "sample" in record:
                writer.add_text("sample", record["sample"], record["step"])
            writer.flush()

        return show
    run = library.init(project="nested", dir=str(folder), mode="offline", settings={"silent": True})
    return lambda record: run.log(_numbers(record), step=record["step"])


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of ``record``, those of its parts under their own names."""
    flat = {**record, **{f"moved/{level}": x for level, x in record.get("moved", {}).items()}}
    return {name: value for name, value in flat.items() if isinstance(value, (int, float))}
