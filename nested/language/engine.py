"""Write many texts side by side: requests that come at any time share the calls of one model.

Letters: B texts side by side, T tokens, V tokens of the vocabulary.
Source: iteration-level batching, Yu et al. 2022 (Orca, OSDI).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nested.language.coder import Coder, side_by_side
from nested.language.writing import Draft
from nested.levels.forward import State
from nested.memory import pick, stack_states
from nested.models.model import SequenceModel
from nested.models.token_reader import TokenReader
from nested.support.checks import check_counts

PIECE = 256  # tokens of a prompt that are read at once, while others wait for their next token
SIZES = (1, 4, 16, 64)  # texts side by side for which the model is recorded


@dataclass(frozen=True)
class Limits:
    """The limits of a server. Raises ``ValueError`` for a limit that is not above 0.

    ``together`` texts are written side by side, and ``waiting`` more may wait for ``patience``
    seconds. An answer has at most ``tokens`` tokens, its prompt included, and ``seconds`` of time.
    ``sessions`` memories are kept, each until it was idle for ``idle`` seconds. One with more than
    ``numbers`` numbers takes no further request. So all of them take about ``sessions`` x
    ``numbers`` x 4 bytes at most, 8 GB by default. A request has at most ``body`` bytes.
    """

    together: int = 16
    waiting: int = 64
    patience: float = 30.0
    tokens: int = 4096
    seconds: float = 120.0
    sessions: int = 100
    idle: float = 3600.0
    numbers: int = 20_000_000
    body: int = 1_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"the limit {name} is above 0, but got {value}")
        check_counts(together=self.together, waiting=self.waiting, tokens=self.tokens)
        if self.together > SIZES[-1]:
            raise ValueError(f"at most {SIZES[-1]} texts are written together, not {self.together}")


class Refused(Exception):
    """A request that is not answered, with the ``status`` of HTTP that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Job:
    """One text to read and to go on writing, from ``state`` (1, ...).

    ``tokens`` (T,) are read. Then ``draft`` is written; None only reads. Each piece of text goes to
    ``show(piece, reason)`` in the thread of the engine. The last piece has a reason: "stop",
    "length", "cancelled", or a ``Refused``. Only then ``state`` is final: it holds all that was
    read and written.
    """

    def __init__(
        self,
        tokens: list[int],
        draft: Draft | None,
        state: State,
        show: Callable[[str, str | Refused | None], None],
    ) -> None:
        self.unread, self.draft, self.state, self.show = list(tokens), draft, state, show
        self.is_cancelled, self.came_at, self.started_at = False, time.monotonic(), 0.0

    @property
    def is_read(self) -> bool:
        """Whether all of ``tokens`` was read."""
        return not self.unread or (self.draft is not None and len(self.draft.tokens) > 0)

    def cancel(self) -> None:
        """End the text soon: nobody waits for it. It ends with the reason "cancelled"."""
        self.is_cancelled = True


class Engine:
    """Works on jobs in a thread of its own, until ``close``. ``model`` is used by nobody else. Jobs
    are ``waiting`` or ``active``.

    All active jobs take their next token, or the next piece of their prompt, in one call of the
    model. A job that comes later joins at the next call. The texts are those of each job alone.
    """

    def __init__(self, model: SequenceModel, coder: Coder, limits: Limits = Limits()) -> None:
        self.model, self.coder, self.limits = model.eval(), coder, limits
        self._reader, self._device = TokenReader(model), next(model.parameters()).device
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        self._row_jobs: list[Job] = []  # whose states stand in ``_rows``, one in a row
        self._rows: State = None
        self._changed, self._is_closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job, to be done as soon as there is room. Raises ``Refused`` if too many wait, or
        if the engine is closing."""
        with self._changed:
            if self._is_closing:
                raise Refused(503, "the server is shutting down")
            self._leave_out()
            if len(self.waiting) >= self.limits.waiting:
                raise Refused(429, f"{len(self.waiting)} requests wait already: try again later")
            self.waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """End all texts where they are, and take no more. Returns at once."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()

    def _work(self) -> None:
        while self._admitted():
            try:
                self._drop_ended()
                long = [job for job in self.active if len(job.unread) > 1]
                for jobs in (long, [job for job in self.active if len(job.unread) == 1]):
                    if jobs:
                        self._read(jobs)
            except Exception as error:  # one call must not end the server
                self._row_jobs = []  # their states may be half written
                self._fail(self.active, error)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        for job in list(jobs):
            self.active.remove(job)
            self._end(job, Refused(500, f"the model failed: {error}"))

    def _admitted(self) -> bool:
        """Wait for a job, and let those in for which there is room. Returns False at the end."""
        with self._changed:
            while not (self.waiting or self.active or self._is_closing):
                self._changed.wait()
            if self._is_closing:
                for job in (*self.active, *self.waiting):
                    self._cut(job, "the server is shutting down")
                return False
            self._leave_out()
            while self.waiting and len(self.active) < self.limits.together:
                self.active.append(self.waiting.popleft())
                self.active[-1].started_at = time.monotonic()
            return True

    def _leave_out(self) -> None:
        """End those that wait for nobody, or have waited too long."""
        late = time.monotonic() - self.limits.patience
        for job in [job for job in self.waiting if job.is_cancelled or job.came_at < late]:
            self.waiting.remove(job)
            self._cut(job, "the request has waited too long")

    def _drop_ended(self) -> None:
        late = time.monotonic() - self.limits.seconds
        for job in [job for job in self.active if job.is_cancelled or job.started_at < late]:
            self.active.remove(job)
            self._cut(job, f"the text was not read within {self.limits.seconds:g} seconds")

    def _cut(self, job: Job, why: str) -> None:
        """End a job before its end: a text that was begun is only shorter."""
        reason = "length" if job.is_read else Refused(503, why)
        self._end(job, "cancelled" if job.is_cancelled else reason)

    @torch.no_grad()
    def _read(self, jobs: list[Job]) -> None:
        """Read one token of each of the ``jobs``, or one piece of each prompt."""
        pieces = [job.unread[:PIECE] for job in jobs]
        tokens, lengths = side_by_side(pieces)
        if max(lengths) == 1:
            logits = self._next_token(jobs, [piece[0] for piece in pieces])
        else:
            self._unstack()
            states = stack_states([job.state for job in jobs])
            logits, states = self.model(tokens.to(self._device), states, lengths=lengths)
            logits = logits[torch.arange(len(jobs)), torch.tensor(lengths) - 1]
            for row, job in enumerate(jobs):
                job.state = pick(states, [row])
        for job, piece, scores in zip(jobs, pieces, logits.float().cpu(), strict=True):
            del job.unread[: len(piece)]
            if not job.unread:
                try:
                    self._go_on(job, scores)
                except Exception as error:  # one request must not end the others
                    self._fail([job], error)

    def _next_token(self, jobs: list[Job], tokens: list[int]) -> Tensor:
        """Read one token of each of the ``jobs``, and return the logits (B, V)."""
        spare = min(size for size in SIZES if size >= len(jobs)) - len(jobs)  # rows of nobody
        if jobs != self._row_jobs:
            self._unstack()
            states = [job.state for job in jobs] + [jobs[0].state] * spare
            self._rows, self._row_jobs = stack_states(states), jobs
        rows = torch.tensor(tokens + tokens[:1] * spare, device=self._device)
        logits, self._rows = self._reader(rows[:, None], self._rows)
        return logits[: len(jobs), -1]

    def _unstack(self) -> None:
        """Give each job in a row its state."""
        for row, job in enumerate(self._row_jobs):
            job.state = pick(self._rows, [row])
        self._row_jobs, self._rows = [], None

    def _go_on(self, job: Job, logits: Tensor) -> None:
        """Draw the next token of a job that has read all, or end it."""
        if job.draft is None or job.draft.reason is not None:
            self.active.remove(job)
            self._end(job, "stop" if job.draft is None else job.draft.reason)
            return
        token, piece = job.draft.push(logits)
        job.unread = [token]  # also the last one: the state goes on after the text
        if piece:
            job.show(piece, None)

    def _end(self, job: Job, reason: str | Refused) -> None:
        if job in self._row_jobs:
            job.state = pick(self._rows, [self._row_jobs.index(job)])
        is_cut = job.draft is not None and job.draft.reason is None
        job.show(job.draft.end(str(reason)) if is_cut else "", reason)
