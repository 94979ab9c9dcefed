"""A training of a language model, one step at a time, that can be saved at any step.

Letters: B texts side by side, T tokens of a window, V tokens of the vocabulary.
Source: the recipe of nanoGPT; states carried from window to window as in truncated backpropagation.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map_only

from nested.language.config import TrainConfig
from nested.language.optimizers import build_optimizers
from nested.language.text import Text
from nested.language.windows import Windows
from nested.levels.detach import detached
from nested.levels.forward import State
from nested.memory.ngram_memory import set_price
from nested.models.model import start_anew
from nested.models.processes import Processes, whole
from nested.support.device import find_device

LOWEST = 0.1  # of the rate, at the end
WRITE_PRICE = 0.03  # nats that a write to a memory of n-grams costs
SPIKE, SNAPSHOT_EVERY = 2.0, 50  # nats above the running mean; steps
MOST_FAILURES = 20  # steps that explode between two snapshots


class Training:
    """Trains ``model`` on ``text``, for ``total`` steps of which ``step`` are made.

    ``mean_loss`` is the running mean of its losses, in nats a token.

    Everything random follows from ``config.seed``. After ``load_state_dict`` it goes on exactly as
    the training that was saved. Raises ``ValueError`` as ``build_optimizers`` does.
    """

    def __init__(
        self, config: TrainConfig, text: Text, total: int, processes: Processes | None = None
    ) -> None:
        self.config, self.total, self.step, self.restarts = config, total, 0, 0
        self.processes = processes or Processes(find_device(config.device))
        if config.batch_size % self.processes.count:
            raise ValueError(
                f"a batch of {config.batch_size} texts cannot be shared by"
                f" {self.processes.count} processes: take a multiple"
            )
        self.device, is_half = self.processes.device, config.precision == "bfloat16"
        if is_half and self.device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ValueError("this GPU does not compute in bfloat16: take --precision float32")
        torch.manual_seed(config.seed)
        self.model = config.build(text.coder.vocab).to(self.device)
        tokens = config.batch_size * config.length * config.accumulate // self.processes.count
        set_price(self.model, WRITE_PRICE / tokens)
        self._read = self.processes.wrap(self.model)
        if config.compile:
            self._read = torch.compile(self._read)
        self.optimizers = build_optimizers(config, self.model, total)
        self.windows = Windows(
            text.train,
            text.coder,
            config.batch_size,
            config.length,
            config.text_length if config.is_carried else config.length,
            config.facts,
            Generator().manual_seed(config.seed),
        )
        self._first_rates = [g["lr"] for o in self.optimizers for g in o.param_groups]
        self.carried: State | None = None
        self.mean_loss = math.inf
        self._good: dict[str, Any] = {}
        self._failures = 0

    def take_step(self) -> dict[str, float]:
        """Make one step. Returns its loss in nats a token, the norm of its gradient and its rate.

        A loss that is not finite, or far above the running mean, makes no step. Instead weights and
        optimizer go back to the last snapshot, and training goes on with other windows. The result
        then has "back_to", the step of the snapshot. Raises ``ValueError`` if that does not help.
        """
        rate = self._set_rates()
        self.model.train()
        self.model.zero_grad()
        loss = sum(self._backward() for _ in range(self.config.accumulate))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        norm = whole(norm).item()
        result = {"step": self.step, "loss": loss, "norm": norm, "rate": rate}
        # a loss under ln V is no spike: a text of another kind can be as hard
        limit = max(self.mean_loss + SPIKE, math.log(self.model.config.vocab))
        if not math.isfinite(loss + norm) or loss > limit:
            self._go_back()
            return {**result, "back_to": self.step}
        if not self._good or self.step == self._good["step"] + SNAPSHOT_EVERY:
            self._good, self._failures = copy.deepcopy(self._weights()), 0
        self.step += 1
        for optimizer in self.optimizers:
            optimizer.step(lambda: loss)
            if self.step == self.total and hasattr(optimizer, "flush"):
                optimizer.flush()
        share = max(0.02, 1 / self.step)
        old = loss if self.step == 1 else self.mean_loss
        self.mean_loss = old + share * (loss - old)
        return result

    def _go_back(self) -> None:
        self.restarts, self._failures = self.restarts + 1, self._failures + 1
        if not self._good or self._failures > MOST_FAILURES:
            raise ValueError(
                f"the loss explodes again and again at step {self.step}: take a lower rate (lr)"
            )
        self._load_weights(copy.deepcopy(self._good))
        self.carried = None  # it may hold what made the loss explode

    def _set_rates(self) -> float:
        """Set the rate of each group, and return its share of the highest one."""
        warm = min(1.0, (self.step + 1) / max(1, self.config.warm_up * self.total))
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.step / self.total))
        share = warm * (LOWEST + (1 - LOWEST) * cosine)
        groups = [g for optimizer in self.optimizers for g in optimizer.param_groups]
        for group, rate in zip(groups, self._first_rates):
            group["lr"] = rate * share
        return share

    def _backward(self) -> float:
        """Read one window of each text, and add the gradient of its mean loss."""
        window, mine = self.windows.draw(self.step / self.total), self.processes.rows
        tokens, targets = mine(window.tokens).to(self.device), mine(window.targets).to(self.device)
        lengths = None if (window.lengths == self.config.length).all() else mine(window.lengths)
        write = None if window.write is None else mine(window.write).to(self.device)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        ):
            state = self._continued(window.is_new)
            logits, state = self._read(tokens, state, lengths=lengths, write=write)
        losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        loss = losses @ mine(window.weights).to(losses).flatten()
        # gradients of processes are averaged, so that each counts as many times as there are
        total = max(1, window.weights.sum().item()) * self.config.accumulate
        (loss * (self.processes.count / total)).backward()
        self.carried = detached(state) if self.config.is_carried else None
        return self.processes.total(loss.item() / total)

    def _continued(self, is_new: Tensor) -> State | None:
        """Return the carried state, with a mark on each text that ``is_new`` (B,)."""
        if self.carried is None or is_new.all():
            return None
        if not is_new.any():  # in no process: all of them take the same way
            return self.carried
        return start_anew(self.carried, self.processes.rows(is_new))

    def _weights(self) -> dict[str, Any]:
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.model.state_dict(), "optimizers": optimizers, "step": self.step}

    def _load_weights(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]

    def state_dict(self) -> dict[str, Any]:
        """Return all that later steps depend on: tensors (...), numbers and containers."""
        return {**self._weights(), **self.progress(), "state": self.carried, "good": self._good}

    def progress(self) -> dict[str, Any]:
        """Return the part of ``state_dict`` that all processes share, without weights (...)."""
        return {
            "step": self.step,
            "total": self.total,
            "restarts": self.restarts,
            "mean_loss": self.mean_loss,
            "windows": self.windows.state_dict(),
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken, tensors (...) and numbers."""
        self._load_weights(state)
        self.carried = tree_map_only(Tensor, lambda x: x.to(self.device), state["state"])
        self._good = state["good"]
        self.load_progress(state)

    def load_progress(self, state: dict[str, Any]) -> None:
        """Load what ``progress`` returned; weights and optimizers have come from elsewhere. Without
        a saved snapshot, one is taken of these weights."""
        self.step, self.restarts = state["step"], state["restarts"]
        self.mean_loss = state["mean_loss"]
        self.windows.load_state_dict(state["windows"])
        torch.set_rng_state(state["random"])
        if not self._good:
            self._good = copy.deepcopy(self._weights())
