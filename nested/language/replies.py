"""Answers of the server on their way, and the shapes that OpenAI's clients read.

Source: the objects of OpenAI's API; streams are server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from torch import Generator

from nested.language.engine import Engine, Job, Refused
from nested.language.requests import Ask, Completion
from nested.language.writing import Draft, Sampling, first_tokens
from nested.levels.forward import State

WATCH_EVERY = 0.3  # seconds between two looks whether the client is there
CLIENT_GONE = 499  # a status that nobody reads; nginx uses it
Shape = dict[str, Any]


class Answer:
    """The answer to one request: a job of ``engine`` whose pieces come out here.

    It reads ``tokens`` on from ``state`` (1, ...) and writes ``draft``, if any. At the end ``keep``
    gets the state that it leaves. After a refusal, or if not all ``tokens`` were read, it gets
    ``state`` again. The job ends when ``is_gone`` says that nobody waits for it. Raises ``Refused``
    if the engine takes no more.
    """

    def __init__(
        self,
        engine: Engine,
        tokens: list[int],
        draft: Draft | None,
        state: State,
        keep: Callable[[State], None],
        is_gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue()
        self.prompt_size, self.draft = len(tokens), draft
        self._is_gone, self._looked_at = is_gone, time.monotonic()

        def show(piece: str, reason: str | Refused | None) -> None:
            if reason is not None:
                is_new = self.job.is_read and not isinstance(reason, Refused)
                keep(self.job.state if is_new else state)
            with suppress(RuntimeError):  # the loop was closed: nobody listens
                loop.call_soon_threadsafe(self._pieces.put_nowait, (piece, reason))

        self.job = Job(tokens, draft, state, show)
        try:
            engine.submit(self.job)
        except Refused:
            keep(state)
            raise

    async def start(self) -> None:
        """Wait for the first piece. Raises ``Refused`` if there will be none."""
        self._next = await self._received()

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the pieces of text as they come, after ``start``. Raises ``Refused`` as it does."""
        try:
            while True:
                piece, reason = self._next
                if piece:
                    yield piece
                if reason is not None:
                    return
                self._next = await self._received()
        finally:
            self.job.cancel()

    async def _received(self) -> tuple[str, str | None]:
        """The next piece, with the reason why it is the last. Cancels a job nobody waits for."""
        while True:
            if time.monotonic() > self._looked_at + WATCH_EVERY:
                self._looked_at = time.monotonic()
                if self._is_gone is not None and await self._is_gone():
                    self.job.cancel()
                    raise Refused(CLIENT_GONE, "the client has gone")
            with suppress(asyncio.TimeoutError):
                piece, reason = await asyncio.wait_for(self._pieces.get(), WATCH_EVERY)
                if isinstance(reason, Refused):
                    raise reason
                return piece, reason

    @property
    def usage(self) -> Shape:
        """How many tokens were read and written."""
        count = len(self.draft.tokens)
        counts = {"prompt_tokens": self.prompt_size, "completion_tokens": count}
        return {**counts, "total_tokens": self.prompt_size + count}


def draft_of(ask: Ask, engine: Engine, limit: int, stop: list[str]) -> Draft:
    """Start an answer to ``ask`` with at most ``limit`` tokens, that ends before a string of
    ``stop``."""
    sampling = Sampling(ask.temperature, ask.top_k, ask.top_p, ask.repetition_penalty)
    seed = secrets.randbits(63) if ask.seed is None else ask.seed
    return Draft(engine.coder, limit, sampling, stop, Generator().manual_seed(seed))


def tokens_of(engine: Engine, prompt: str | bytes, limit: int | None) -> tuple[list[int], int]:
    """Return the tokens (T,) of ``prompt``, and how many may follow: ``limit``, or all that fit.

    Raises ``Refused`` if these are more tokens than the server reads."""
    tokens, most = first_tokens(engine.coder, prompt), engine.limits.tokens
    limit = max(1, most - len(tokens)) if limit is None else limit
    if len(tokens) + limit > most:
        raise Refused(
            400, f"{len(tokens)} tokens to read and {limit} to write are above the limit of {most}"
        )
    return tokens, limit


class Shapes:
    """The objects that answer one request: ``whole``, or the events of a stream."""

    def __init__(self, ask: Ask) -> None:
        self._is_chat = not isinstance(ask, Completion)
        self._has_usage = ask.stream_options is not None and ask.stream_options.include_usage
        kind = "chatcmpl" if self._is_chat else "cmpl"
        self._head = {"id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time())}
        self._head["model"] = ask.model

    def whole(self, answer: Answer) -> Shape:
        """Return the answer as one object."""
        text = answer.draft.text
        if self._is_chat:
            body = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            body = {"text": text}
        name = "chat.completion" if self._is_chat else "text_completion"
        choice = self._choice(body, answer.draft.reason)
        return {**self._head, "object": name, "choices": [choice], "usage": answer.usage}

    async def events(self, answer: Answer, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
        """Yield the server-sent events of an answer, the last one of which is [DONE]."""
        try:
            if self._is_chat:
                yield self._event([self._choice({"delta": {"role": "assistant", "content": ""}})])
            async for piece in pieces:
                yield self._event([self._choice(self._part(piece))])
            yield self._event([self._choice(self._part(""), answer.draft.reason)])
            if self._has_usage:
                yield self._event([], answer.usage)
        except Refused as error:
            yield f"data: {json.dumps(error_shape(error.status, str(error)))}\n\n"
        yield "data: [DONE]\n\n"

    def _part(self, piece: str) -> Shape:
        if self._is_chat:
            return {"delta": {"content": piece} if piece else {}}
        return {"text": piece}

    def _choice(self, body: Shape, reason: str | None = None) -> Shape:
        return {"index": 0, **body, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[Shape], usage: Shape | None = None) -> str:
        name = "chat.completion.chunk" if self._is_chat else "text_completion"
        event = {**self._head, "object": name, "choices": choices}
        if self._has_usage:
            event["usage"] = usage
        return f"data: {json.dumps(event)}\n\n"


ERRORS = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}


def error_shape(status: int, message: str, param: str | None = None) -> Shape:
    """Return the object that tells of an error, as OpenAI's clients read it."""
    kind = ERRORS.get(status, "server_error" if status > 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}
