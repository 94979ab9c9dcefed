"""Serve a model to OpenAI's clients: completions, chat, and sessions that remember.

Source: ``fastapi`` and ``uvicorn``; the paths of OpenAI's API. /v1/sessions is ours.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from nested.language.chat import speeches
from nested.language.engine import Engine, Limits, Refused
from nested.language.replies import Answer, Shapes, draft_of, error_shape, tokens_of
from nested.language.requests import Ask, ChatCompletion, Completion, Memory
from nested.language.sessions import Sessions

LOCAL = ("127.0.0.1", "::1", "localhost")
GRACE = 5  # seconds for the last words of answers, after Ctrl-C
CONNECTIONS = 1000  # at once; uvicorn answers 503 to more


def build_app(engine: Engine, name: str, *, token: str | None = None) -> FastAPI:
    """Build the server of the model ``name``, for those who know ``token``. None lets all in.

    A request that is not answered raises ``Refused``, which the server turns into an error."""
    app = FastAPI(title="nested.language", docs_url=None, redoc_url=None)
    app.state.sessions = sessions = Sessions(lambda: engine.model.init(1), engine.limits)
    app.add_middleware(Guard, token=token, limits=engine.limits)
    _add_errors(app)

    async def answer(ask: Ask, prompt: str, limit: int | None, stop: list[str], request: Request):
        if ask.model != name:
            raise Refused(404, f"there is no model {ask.model!r}; this server has {name!r}")
        tokens, limit = tokens_of(engine, prompt, limit)
        draft = draft_of(ask, engine, limit, ask.stops + stop)
        memory_and_keep = sessions.open(ask.session)
        coming = Answer(engine, tokens, draft, *memory_and_keep, request.is_disconnected)
        shapes = Shapes(ask)
        await coming.start()
        if ask.stream:
            events = shapes.events(coming, coming.pieces())
            return StreamingResponse(events, media_type="text/event-stream")
        async for _ in coming.pieces():
            pass
        return shapes.whole(coming)

    @app.get("/v1/models", **DESCRIBED)
    async def models() -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "nested"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/completions", **DESCRIBED)
    async def completions(ask: Completion, request: Request) -> Any:
        return await answer(ask, ask.prompt, ask.max_tokens, [], request)

    @app.post("/v1/chat/completions", **DESCRIBED)
    async def chat_completions(ask: ChatCompletion, request: Request) -> Any:
        limit = ask.max_completion_tokens or ask.max_tokens
        prompt = speeches([(message.role, message.text) for message in ask.messages])
        return await answer(ask, prompt, limit, ["\n\n"], request)

    _add_sessions(app, engine, sessions)
    return app


STATUSES = (400, 401, 404, 408, 409, 413, 429, 500, 503)
DESCRIBED: dict[str, Any] = {"responses": dict.fromkeys(STATUSES, {"description": "An error"})}


def _add_sessions(app: FastAPI, engine: Engine, sessions: Sessions) -> None:
    """Let clients start sessions, tell them texts, and end them."""

    @app.post("/v1/sessions", status_code=201, **DESCRIBED)
    async def start_session() -> dict[str, Any]:
        return {"id": sessions.create(), "object": "session"}

    @app.post("/v1/sessions/{session}/memory", **DESCRIBED)
    async def remember(session: str, memory: Memory, request: Request) -> dict[str, Any]:
        tokens, _ = tokens_of(engine, memory.text, 0)
        memory_and_keep = sessions.open(session)
        await Answer(engine, tokens, None, *memory_and_keep, request.is_disconnected).start()
        return {"object": "memory", "tokens": len(tokens)}

    @app.delete("/v1/sessions/{session}", status_code=204, **DESCRIBED)
    async def forget_session(session: str) -> None:
        sessions.delete(session)


def _add_errors(app: FastAPI) -> None:
    """Answer every error by an object that OpenAI's clients read."""

    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(p for p in first["loc"] if isinstance(p, str) and p != "body")
        what = first["msg"].removeprefix("Value error, ")
        return _error(400, f"{where or 'the body'}: {what}", where)

    handlers: dict[type[Exception], Callable] = {
        Refused: lambda request, error: _error(error.status, str(error)),
        HTTPException: lambda request, error: _error(error.status_code, str(error.detail)),
        RequestValidationError: invalid,
        Exception: lambda request, error: _error(500, "the server failed"),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _error(status: int, message: str, param: str | None = None) -> Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(status)
    return JSONResponse(error_shape(status, message, param), status, headers)


class Guard:
    """Lets a request through to ``app`` with its whole body, if it may come in.

    A request to /v1 without the ``token`` is answered by 401, before its body is read. A body of
    more than ``limits.body`` bytes is answered by 413. One that stays away for ``limits.patience``
    seconds is answered by 408."""

    def __init__(self, app: Callable, token: str | None, limits: Limits) -> None:
        self._app, self._token, self._limits = app, token, limits

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_token(Request(scope))
            whole = [await asyncio.wait_for(self._read(receive), self._limits.patience)]
        except (asyncio.TimeoutError, Refused) as error:
            late = _error(408, "the body of the request did not come in time")
            refusal = _error(error.status, str(error)) if isinstance(error, Refused) else late
            await refusal(scope, receive, send)
            return

        async def receive_whole() -> dict[str, Any]:
            return whole.pop() if whole else await receive()

        await self._app(scope, receive_whole, send)

    def _check_token(self, request: Request) -> None:
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(key.encode("latin-1"), (self._token or "").encode())
        is_open = self._token is None or not request.scope["path"].startswith("/v1/")
        if not is_open and not (is_right and kind.lower() == "bearer"):
            raise Refused(401, "the bearer token is missing or wrong")

    async def _read(self, receive: Callable) -> dict[str, Any]:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            body += message.get("body", b"")
            if len(body) > self._limits.body:
                raise Refused(413, f"a request has at most {self._limits.body} bytes")
            if not message.get("more_body", False):
                return {"type": "http.request", "body": bytes(body), "more_body": False}


class Server(uvicorn.Server):
    """A server that ends its answers at a signal."""

    engine: Engine

    def handle_exit(self, number: int, frame: Any) -> None:
        """End all texts; uvicorn then waits until they are sent."""
        self.engine.close()
        super().handle_exit(number, frame)


def serve(
    engine: Engine,
    name: str,
    *,
    host: str,
    port: int,
    token: str | None = None,
    mount: Callable[[FastAPI, Engine, str | None], FastAPI] | None = None,
) -> None:
    """Serve until Ctrl-C. ``mount`` can add a page to the app.

    Raises ``ValueError`` for a port in use, and for a ``host`` that others reach without a
    ``token``."""
    if host not in LOCAL and not token:
        raise ValueError(f"others reach {host}: choose a secret --token, or serve on {LOCAL[0]}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"cannot serve on {host}, port {port}: {reason}") from error
        app = build_app(engine, name, token=token)
        app = mount(app, engine, token) if mount else app
        settings = {"timeout_graceful_shutdown": GRACE, "access_log": False}
        settings["limit_concurrency"] = CONNECTIONS
        server = Server(uvicorn.Config(app, log_level="warning", **settings))
        server.engine = engine
        print(f"{name} at http://{host}:{listener.getsockname()[1]}/v1, Ctrl-C ends", flush=True)
        server.run(sockets=[listener])
