"""Keep memories for those who know their secret names.

Source: ``secrets``; a name has 256 random bits, so that nobody guesses one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nested.language.engine import Limits, Refused
from nested.levels.forward import State
from nested.memory.state import count_numbers


@dataclass
class _Session:
    state: State
    used_at: float
    is_busy: bool = False


class Sessions:
    """Memories (1, ...) that start as ``init()``, within ``limits``. Nobody can list them."""

    def __init__(self, init: Callable[[], State], limits: Limits) -> None:
        self._init, self._limits, self._lock = init, limits, threading.Lock()
        self._sessions: dict[str, _Session] = {}

    def create(self) -> str:
        """Start a session, and return its name. Raises ``Refused`` if there are too many."""
        with self._lock:
            self._drop_idle()
            if len(self._sessions) >= self._limits.sessions:
                raise Refused(503, "the server keeps no more sessions: try again later")
            name = secrets.token_urlsafe(32)
            self._sessions[name] = _Session(self._init(), time.monotonic())
            return name

    def open(self, name: str | None) -> tuple[State, Callable[[State], None]]:
        """Take the memory of a session (1, ...), and return it with what gives it back. Without a
        name the memory is empty, and nothing is kept. Raises ``Refused`` as ``take``."""
        if name is None:
            return self._init(), lambda state: None
        return self.take(name), partial(self.put, name)

    def take(self, name: str) -> State:
        """Return the memory of a session (1, ...), which is busy until ``put``. Raises ``Refused``
        if there is none, if it is busy, or if it is full."""
        with self._lock:
            session = self._known(name)
            if session.is_busy:
                raise Refused(409, "this session is answering another request")
            if count_numbers(session.state) > self._limits.numbers:
                raise Refused(400, "the memory of this session is full: start another one")
            session.is_busy = True
            return session.state

    def put(self, name: str, state: State) -> None:
        """Give the memory (1, ...) of a session back. A session deleted meanwhile stays deleted."""
        with self._lock:
            if name in self._sessions:
                self._sessions[name] = _Session(state, time.monotonic())

    def delete(self, name: str) -> None:
        """Forget a session. Raises ``Refused`` if there is none."""
        with self._lock:
            self._known(name)
            del self._sessions[name]

    def _drop_idle(self) -> None:
        oldest = time.monotonic() - self._limits.idle
        for name, session in list(self._sessions.items()):
            if session.used_at < oldest and not session.is_busy:
                del self._sessions[name]

    def _known(self, name: str) -> _Session:
        self._drop_idle()
        if name not in self._sessions:
            raise Refused(404, "there is no such session, or it was idle for too long")
        return self._sessions[name]
