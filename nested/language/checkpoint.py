"""Save and load a language model: its settings, its coder and its weights, as data and no code.

Source: ``nested.support.files``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from nested.language.coder import Coder, coder_from
from nested.language.config import TrainConfig, plain
from nested.levels.forward import Params, State
from nested.models.model import SequenceModel
from nested.support.files import load_checkpoint, save_checkpoint

FORMAT, MEMORY = "nested language model 1", "nested memory 1"
SHIPPED = Path(__file__).parent / "pretrained"
LAST, BEST = "last.pt", "best.pt"


def save_model(path: Path, config: TrainConfig, coder: Coder, weights: Params, **more: Any) -> None:
    """Save the ``weights`` of a model, {name: tensor (...)}, with the settings and the coder that
    belong to it, and ``more`` data.

    Raises ``ValueError`` when the file cannot be written."""
    content = {"format": FORMAT, "config": plain(config), "coder": coder.about()}
    save_checkpoint(path, {**content, "model": weights, **more})


def read_model(path: Path) -> tuple[TrainConfig, Coder, dict[str, Any]]:
    """Read what ``save_model`` saved: the settings, the coder and the whole content, tensors (...).

    Raises ``FileNotFoundError`` if there is no file, and ``ValueError`` if it is no such model."""
    content = load_checkpoint(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        config = TrainConfig(**content["config"])
        return config, coder_from(content["coder"]), content
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is no language model of this package: {error}") from error


def load(dir_or_name: Path | str = "nano") -> tuple[SequenceModel, Coder]:
    """Load a trained model and its coder, for ``generate``.

    ``dir_or_name`` is the name of a shipped model, a folder that ``train`` wrote (whose best model
    is taken), or one file.

    The model is in evaluation mode. Raises ``ValueError`` if there is none, or if it cannot be
    read.
    """
    path = _path_of(dir_or_name)
    config, coder, content = read_model(path)
    try:
        model = _empty_model(config, coder, content["model"])
        model.load_state_dict(content["model"])
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        what = f"{str(path)!r} holds other weights than its settings: {error}"
        raise ValueError(what.splitlines()[0]) from error
    return model.eval(), coder


def _empty_model(config: TrainConfig, coder: Coder, weights: Params) -> SequenceModel:
    """Build the model of ``config``, if ``weights`` have its shapes. A file can ask for any size,
    so shapes are compared before memory is taken. Raises ``ValueError`` for other weights."""
    if config.layers > len(weights):
        raise ValueError("too few weights")
    with torch.device("meta"):
        wanted = config.build(coder.vocab).state_dict()
    if any(weights[name].shape != wanted[name].shape for name in wanted):
        raise ValueError("other shapes")
    return config.build(coder.vocab)


def _path_of(where: Path | str) -> Path:
    path = Path(where)
    for candidate in (path / BEST, path / LAST, path, SHIPPED / f"{where}.pt"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.pt"))) or "none"
    raise ValueError(
        f"there is no model at {str(where)!r}: give a folder that train wrote, a file, or the name"
        f" of a shipped model ({known})"
    )


def save_state(path: Path, model: SequenceModel, state: State) -> None:
    """Save the ``state`` (1, ...) of ``model``. Raises ``ValueError`` when it cannot be written."""
    save_checkpoint(path, {"format": MEMORY, "weights": _fingerprint(model), "state": state})


def load_state(path: Path, model: SequenceModel) -> State:
    """Load a state (1, ...) that ``save_state`` saved for ``model``.

    Raises ``ValueError`` if there is none, if it cannot be read, or if it belongs to another
    model or other weights."""
    try:
        content = load_checkpoint(path)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    if content.get("format") != MEMORY or "state" not in content:
        raise ValueError(f"{str(path)!r} is no memory that was saved here")
    if content.get("weights") != _fingerprint(model):
        raise ValueError(f"the memory in {str(path)!r} belongs to a model with other weights")
    device = next(model.parameters()).device
    state = tree_map_only(Tensor, lambda leaf: leaf.to(device), content["state"])
    try:  # a file that was made by hand may hold anything
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.int64, device=device), state)
    except Exception as error:
        raise ValueError(f"the memory in {str(path)!r} does not fit this model: {error}") from None
    return state


def _fingerprint(model: SequenceModel) -> str:
    """A hash of the weights of ``model``."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
