"""The base of sequence models: tokens come in, logits and an explicit state go out.

Letters: B samples, T tokens, D width, V size of the vocabulary.
Source: the pre-norm Transformer of Xiong et al. 2020 (arXiv 2002.04745).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested.levels.forward import State
from nested.memory import pick, stack_states
from nested.memory.masks import Lengths, check_mask, is_traced, present_tokens, without_padding
from nested.memory.second_backward import refuse_second_backward, watch_backward
from nested.models.config import ModelConfig
from nested.models.ngrams import NGrams

MARK = "is_new"  # the entry of a block's state that marks samples which start anew


class SequenceModel(nn.Module):
    """Blocks between an embedding and a head: ``logits, state = model(tokens, state=None)``.

    Tokens are (B, T) int64 from 0 to V - 1, and logits (B, T, V) score the next token. The state,
    {"blocks": (...)}, is everything the model remembers of earlier tokens; None starts anew. The
    model is causal, and reading a text in pieces gives the result of one call. The head starts
    small, so that the first loss is near ln V. With ``ngrams`` in its config, the vectors of the
    n-grams that end at a token are added to its embedding. With ``recall`` the first block gets the
    codes of n-grams. With either one the state has an entry "ngrams".

    With ``lengths`` (B,) only the first ``lengths[b]`` tokens of sample b are there. What follows
    is padding: it leaves no trace, and its logits are 0. With a mask ``write`` (B, T) the memories
    write the marked tokens only; attention and the windows of convolutions and n-grams keep every
    token. Raises
    ``ValueError`` for other tokens, lengths or masks, and for the state of another model or batch
    size.
    """

    def __init__(self, config: ModelConfig, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.dim)
        has_ngrams = config.ngrams or config.recall
        self.ngrams = NGrams(config.dim, config.ngrams, config.recall) if has_ngrams else None
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.head = nn.Linear(config.dim, config.vocab, bias=False)
        nn.init.normal_(
            self.head.weight, std=0.2 / config.dim**0.5
        )  # logits start near 0.2 in size

    def extra_repr(self) -> str:
        return repr(self.config)

    def init(self, batch_size: int) -> State:
        """Make the state before the first token, nested tensors (B, ...)."""
        first: dict[str, State] = {"blocks": tuple(block.init(batch_size) for block in self.blocks)}
        return first if self.ngrams is None else {**first, "ngrams": self.ngrams.init(batch_size)}

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        write: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        present = check_text(tokens, self.config.vocab, lengths)
        check_mask(tokens, write)
        states, tokens = self._states(state), without_padding(tokens, present)
        x, after, rest, more = self.embed(tokens), [], {}, {}
        if self.ngrams is not None:
            last = None if state is None else state["ngrams"]
            y, codes, rest["ngrams"] = self.ngrams(tokens, last, lengths=lengths)
            x, more = x + y, {} if codes is None else {"codes": codes}  # for the first block
        for block, before in zip(self.blocks, states, strict=True):
            x, block_state = block(x, before, lengths=lengths, write=write, **more)
            after.append(block_state)
            more = {}
        logits = without_padding(self.head(self.norm(x)), present)
        if torch.is_grad_enabled():
            refuse_second_backward(state)
            watch_backward(logits, after)
        return logits, {"blocks": tuple(after), **rest}

    def _states(self, state: State | None) -> tuple[State | None, ...]:
        if state is None:
            return (None,) * len(
                self.blocks
            )  # each block starts its state once FSDP2 has gathered its weights
        is_ours = isinstance(state, dict) and isinstance(state.get("blocks"), (tuple, list))
        if not is_ours or len(state["blocks"]) != len(self.blocks):
            count = f"{len(state['blocks'])} blocks" if is_ours else type(state).__name__
            raise ValueError(
                f"a state of this model has {len(self.blocks)} blocks, but got {count};"
                " None starts anew"
            )
        if ("ngrams" in state) != (self.ngrams is not None):
            has = "no" if self.ngrams is None else "an"
            raise ValueError(
                f"a state of this model has {has} entry for ngrams, but got {' and '.join(state)};"
                " None starts anew"
            )
        return state["blocks"]


class Block(nn.Module):
    """A block whose ``parts``, named by a subclass, each take and return a state.

    ``x, state = block(x, state=None)`` with x (B, T, D) and a state {name of part: its state}.
    """

    parts: tuple[str, ...] = ()

    def init(self, batch_size: int) -> State:
        """Make the state of each part before the first token, {name: nested tensors (B, ...)}."""
        return {name: getattr(self, name).init(batch_size) for name in self.parts}

    def states(self, state: State | None) -> State:
        """Return the state of each part, {name: nested tensors (B, ...)}; all are None if
        ``state`` is None. Samples that ``start_anew`` has marked get the first state. Raises
        ``ValueError`` unless ``state`` names the parts of this block."""
        if state is None:
            return dict.fromkeys(self.parts)
        if isinstance(state, dict) and MARK in state:
            is_new, rest = state[MARK], {n: part for n, part in state.items() if n != MARK}
            rows = torch.arange(len(is_new)) + len(is_new) * is_new.cpu().logical_not()
            first = type(self).init(self, len(is_new))  # not as FSDP2 wraps it: we are inside
            state = pick(stack_states([first, rest]), rows)
        if not isinstance(state, dict) or state.keys() != set(self.parts):
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"a block's state here has entries for {' and '.join(self.parts)}, but got {got}:"
                " it belongs to another model; None starts anew"
            )
        return state


def dense_net(dim: int, hidden: int) -> nn.Sequential:
    """Make a net that maps vectors (..., D) to vectors of D = ``dim`` through ``hidden`` units."""
    up, down = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
    return nn.Sequential(up, nn.GELU(), down)


def start_anew(state: State, is_new: Tensor) -> State:
    """Mark the samples of ``state`` (B, ...) that a model forgets when it reads next: those where
    ``is_new`` (B,) is true. Their first state is made inside the blocks, where FSDP2 has gathered
    the weights."""
    marked = {**state, "blocks": tuple({**block, MARK: is_new} for block in state["blocks"])}
    if "ngrams" in state:  # before the first token these are zeros
        marked["ngrams"] = state["ngrams"] * ~is_new.to(state["ngrams"].device)[:, None]
    return marked


def check_text(tokens: Tensor, vocab: int, lengths: Lengths | None = None) -> Tensor | None:
    """Raise ``ValueError`` unless ``tokens`` is (B, T), int64, not empty, and from 0 to V - 1 for V
    = ``vocab``. What follows the first ``lengths`` (B,) tokens can be any number.

    Returns a mask (B, T) of the tokens that are there, or None if all are.
    """
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.dim() != 2:
        got = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else tokens
        raise ValueError(f"a model reads int64 tokens (samples, tokens), but got {got}")
    if 0 in tokens.shape:
        raise ValueError(f"a model reads one token at least, but got {tuple(tokens.shape)}")
    present = present_tokens(tokens, lengths)
    if not is_traced():  # traced tensors have no values to check
        low, high = without_padding(tokens, present).aminmax()
        if low < 0 or high >= vocab:
            raise ValueError(f"tokens are from 0 to {vocab - 1}, but got {low} to {high}")
    return present
