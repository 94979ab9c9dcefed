"""The optimizers that train a language model, by name.

Source: ``torch.optim``, ``nested.optim`` and ``nested.rules``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from nested.language.config import TrainConfig
from nested.models import decay_groups
from nested.optim import DGD, M3, NestedOptimizer, matrix_groups, periods_by_depth
from nested.rules import LearnedOptimizer

BETAS = (0.9, 0.99)
CLOCKS = (4, 2, 1)  # of "nested": steps between two updates, from the first layers to the last


def build_optimizers(config: TrainConfig, model: nn.Module, steps: int) -> list[Optimizer]:
    """Build the optimizer ``config.optimizer`` for ``model``: one or two that share its weights.

    Raises ``ValueError`` where an optimizer cannot train a model. DGD needs layers that are
    ordinary linear maps, so it trains the Transformer alone.
    """
    decay = config.weight_decay
    if config.optimizer == "muon":
        return _muon(config, model)
    if config.optimizer == "m3":
        return [M3(matrix_groups(model), config.lr, weight_decay=decay)]
    if config.optimizer == "dgd":
        if config.mixer != "transformer":
            raise ValueError(
                f"dgd trains plain linear layers: take the mixer transformer, not {config.mixer}"
            )
        return [DGD(model.parameters(), config.lr, module=model)]
    if config.optimizer == "nested":
        groups = periods_by_depth(model, CLOCKS[: len(list(model.children()))])
        return [NestedOptimizer(groups, lr=config.lr, betas=BETAS, weight_decay=decay)]
    if config.optimizer == "learned":
        return [LearnedOptimizer.from_pretrained(params=model.parameters(), total_steps=steps)]
    return [torch.optim.AdamW(decay_groups(model, decay), config.lr, betas=BETAS)]


def _muon(config: TrainConfig, model: nn.Module) -> list[Optimizer]:
    """Muon for matrices of linear layers, AdamW for all other parameters."""
    groups = matrix_groups(model)
    matrices = [p for group in groups if group["matrices"] is True for p in group["params"]]
    is_matrix = {id(p) for p in matrices}
    rest = [
        {**group, "params": [p for p in group["params"] if id(p) not in is_matrix]}
        for group in decay_groups(model, config.weight_decay)
    ]
    sizes = {"weight_decay": config.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    return [
        torch.optim.Muon(matrices, config.lr, **sizes),
        torch.optim.AdamW(rest, config.lr, betas=BETAS),
    ]
