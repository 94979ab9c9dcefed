"""Read one token at a time, without the cost of Python: the model as a recorded program.

Letters: B texts side by side, V tokens of the vocabulary.
Source: ``torch.jit.trace``. The numbers are those of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from nested.levels.forward import State
from nested.models.model import SequenceModel


class TokenReader:
    """Calls ``model`` on tokens (B, T) and a state, as ``model(tokens, state)`` does, without
    gradients.

    Single tokens with a state go to a program that was recorded at the first of them, one for each
    B. Only a model whose state has a constant size is recorded. Its weights must not change after.
    """

    def __init__(self, model: SequenceModel) -> None:
        self.model, self.parameters, self._programs = model, model.parameters, {}
        first = [leaf.shape for leaf in tree_flatten(model.init(1))[0]]
        with torch.no_grad():
            token = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
            after = [leaf.shape for leaf in tree_flatten(model(token)[1])[0]]
        self._is_constant = first == after

    @torch.no_grad()
    def __call__(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None or tokens.shape[1] > 1 or not self._is_constant or self.model.training:
            return self.model(tokens, state)
        leaves, spec = tree_flatten(state)
        program = self._programs.get((len(tokens), tokens.device))
        if program is None:
            program = _recorded(self.model, tokens, state)
            self._programs[len(tokens), tokens.device] = program
        logits, *leaves = program(tokens, *leaves)
        return logits, tree_unflatten(leaves, spec)


class _Flat(nn.Module):
    """A model whose state goes in and out as separate tensors."""

    def __init__(self, model: SequenceModel, spec: TreeSpec) -> None:
        super().__init__()
        self.model, self._spec = model, spec

    def forward(self, tokens: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        logits, state = self.model(tokens, tree_unflatten(list(leaves), self._spec))
        return logits, *tree_flatten(state)[0]


def _recorded(model: SequenceModel, tokens: Tensor, state: State) -> Callable:
    leaves, spec = tree_flatten(tree_map(torch.clone, state))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks that the tracer skips, and of its age
        traced = torch.jit.trace(_Flat(model, spec).eval(), (tokens, *leaves), check_trace=False)
        return torch.jit.freeze(traced)
