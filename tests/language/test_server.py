"""The server, asked by OpenAI's client, by raw sockets and by made-up requests."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from nested.language.checkpoint import save_model
from nested.language.coder import ByteCoder
from nested.language.config import TrainConfig
from nested.language.engine import Engine, Limits
from nested.language.writing import generate
from tests.language.test_writing import build
from tests.problems import generator

uvicorn = pytest.importorskip("uvicorn", reason="pip install -e .[serve]")
pytest.importorskip("fastapi", reason="pip install -e .[serve]")
openai = pytest.importorskip("openai", reason="pip install openai")


class Running:
    """A server in a thread, with its engine and the model alone beside it."""

    def __init__(self, token=None, **limits):
        from nested.language.server import build_app

        self.model = build().double()
        self.engine = Engine(self.model, ByteCoder(), Limits(**limits))
        app = build_app(self.engine, "nano", token=token)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listener]))
        self.thread.start()
        url = f"http://127.0.0.1:{self.port}/v1"
        self.client = openai.OpenAI(base_url=url, api_key=token or "none", max_retries=0)

    def ask(self, prompt, **more):
        return self.client.completions.create(model="nano", prompt=prompt, **more)

    def alone(self, prompt, tokens, seed, **more):
        writing = generate(
            self.model, ByteCoder(), prompt, tokens, generator=generator(seed), **more
        )
        return "".join(writing), writing.reason

    def post(self, path, body, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        return connection.getresponse()

    def close(self):
        self.engine.close()
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def start():
    servers = []

    def begin(**settings):
        servers.append(Running(**settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server():
    running = Running()
    yield running
    running.close()


def test_it_says_which_model_it_has(server):
    assert [model.id for model in server.client.models.list()] == ["nano"]
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        server.client.completions.create(model="gpt", prompt="a")


def test_a_completion_is_what_the_model_alone_writes(server):
    answer = server.ask("To be", max_tokens=30, seed=4)
    text, reason = server.alone("To be", 30, 4)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, reason)
    assert answer.usage.prompt_tokens == 5 and answer.usage.completion_tokens <= 30
    stop = text[12]
    answer = server.ask("To be", max_tokens=30, seed=4, stop=[stop, "never"], top_p=1.0)
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    greedy = server.ask("To be", max_tokens=9, temperature=0).choices[0].text
    assert greedy == "".join(generate(server.model, ByteCoder(), "To be", 9, temperature=0))


def test_a_stream_is_the_same_text_and_ends_as_openai_says(server):
    text, reason = server.alone("é", 40, 2)
    chunks = list(server.ask("é", max_tokens=40, seed=2, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == text and len(chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, reason]
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = server.ask("é", max_tokens=40, seed=2, **usage)
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    assert last.choices == [] and last.usage.prompt_tokens == 2
    body = json.dumps({"model": "nano", "prompt": "é", "stream": True, "max_tokens": 3})
    response = server.post("/v1/completions", body)
    assert response.getheader("content-type").startswith("text/event-stream")
    assert response.read().endswith(b"data: [DONE]\n\n")


def test_a_chat_is_a_scene_that_the_model_goes_on_with(server):
    messages = [
        {"role": "system", "content": "A street."},
        {"role": "user", "content": "Who's there?"},
        {"role": "assistant", "content": "Nay, answer me."},
        {"role": "user", "content": "Long live the king!"},
    ]
    scene = "A street.\n\nSTRANGER:\nWho's there?\n\nHAMLET:\nNay, answer me.\n\n"
    scene += "STRANGER:\nLong live the king!\n\nHAMLET:\n"
    text, reason = server.alone(scene, 25, 7, stop=["\n\n"])
    ask = {"model": "nano", "messages": messages, "max_completion_tokens": 25, "seed": 7}
    answer = server.client.chat.completions.create(**ask).choices[0]
    assert (answer.message.content, answer.finish_reason) == (text, reason)
    assert answer.message.role == "assistant"
    chunks = list(server.client.chat.completions.create(**ask, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == reason


def test_nulls_and_speeches_in_parts_are_what_openai_says(server):
    parts = [{"type": "text", "text": "Good "}, {"type": "text", "text": "morrow!"}]
    nulls = {"temperature": None, "stop": None, "max_tokens": None, "stream_options": None}
    texts = []
    for content, more in ((parts, nulls), ("Good morrow!", {})):
        body = {"model": "nano", "messages": [{"role": "user", "content": content}], "seed": 3}
        response = server.post("/v1/chat/completions", json.dumps({**body, **more}))
        assert response.status == 200
        texts.append(json.loads(response.read())["choices"][0]["message"]["content"])
    assert texts[0] == texts[1]


def test_a_session_remembers_and_nobody_else_sees_it(server):
    model, coder = server.model, ByteCoder()
    session = server.client.post("/sessions", cast_to=dict, body={})["id"]
    path = f"/sessions/{session}"
    told = server.client.post(f"{path}/memory", cast_to=dict, body={"text": "the code is 12\n"})
    assert told == {"object": "memory", "tokens": 15}
    _, state = model(torch.tensor([coder.encode(b"the code is 12\n")]))
    for number in range(3):  # each answer goes on where the last one ended
        more = {"max_tokens": 20, "seed": number, "extra_body": {"session": session}}
        text = server.ask("say:", **more).choices[0].text
        alone = generate(model, coder, "say:", 20, state=state, generator=generator(number))
        assert text == "".join(alone)
        state = alone.state
    assert (
        server.ask("say:", max_tokens=20, seed=9).choices[0].text == server.alone("say:", 20, 9)[0]
    )
    with pytest.raises(openai.APIStatusError, match="Method Not Allowed"):
        server.client.get("/sessions", cast_to=dict)
    with pytest.raises(openai.NotFoundError, match="no such session"):
        server.ask("a", extra_body={"session": session[:-1]})
    server.client.delete(path, cast_to=type(None))
    with pytest.raises(openai.NotFoundError, match="no such session"):
        server.ask("a", extra_body={"session": session})


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 5000}, "1 tokens to read and 5000 to write are above the limit of 4096"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 2}, "n: Input should be 1"),
        ({"logprobs": 3}, "logprobs: Input should be False"),
        ({"echo": True}, "echo: Input should be False"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"extra_body": {"top_k": 0}}, "top_k"),
        ({"extra_body": {"repetition_penalty": 0.5}}, "repetition_penalty"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(server, wrong, words):
    with pytest.raises(openai.BadRequestError, match=words):
        server.ask("a", **wrong)


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "the body"),
        (b"{", "the body"),
        (b'{"model": "nano", "prompt": "\\ud800"}', "surrogate"),
        (b'{"model": "nano", "prompt": "a", "temperature": NaN}', "temperature"),
        (b"\xff\xfe", "body"),
        (b'{"model": "nano", "messages": []}', "messages"),
    ],
)
def test_a_body_that_is_no_request_is_one_error(server, body, words):
    path = "/v1/chat/completions" if b"messages" in body else "/v1/completions"
    response = server.post(path, body)
    error = json.loads(response.read())["error"]
    assert response.status == 400 and words in error["message"], error
    assert error["type"] == "invalid_request_error"


def test_bodies_that_are_too_long_or_too_slow_are_refused(start):
    server = start(body=1000, patience=0.5)
    big = json.dumps({"model": "nano", "prompt": "a" * 1000})
    response = server.post("/v1/completions", big)
    assert response.status == 413 and b"at most 1000 bytes" in response.read()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{"
        slow.sendall(head.encode())
        assert b" 408 " in slow.recv(1000)
    assert server.ask("a", max_tokens=3).usage.completion_tokens


def test_a_token_is_asked_for(start):
    server = start(token="sesame")
    assert server.ask("a", max_tokens=2).usage.completion_tokens
    for key in ("wrong", "sesam", "sesameé".encode().decode("latin-1")):
        response = server.post("/v1/completions", "{}", authorization=f"Bearer {key}")
        assert response.status == 401 and response.getheader("www-authenticate") == "Bearer"
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        server.client.with_options(api_key="wrong").models.list()
    for host in ("a", "a/b?"):  # a host can hide the path of a URL
        assert server.post("/v1/completions", "{}", host=host).status == 401
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as stranger:
        head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{"
        stranger.sendall(head.encode())
        assert b" 401 " in stranger.recv(1000)  # before the rest of the body came


def test_past_the_limits_it_says_so(start):
    server = start(together=1, waiting=1, sessions=1, patience=0.5)
    long = iter(server.ask("a", max_tokens=4000, stream=True, temperature=0))
    next(long)
    late = []

    def wait():
        try:
            server.ask("b", max_tokens=1)
        except openai.APIStatusError as error:
            late.append(error.status_code)

    thread = threading.Thread(target=wait)
    thread.start()
    while (len(server.engine.active), len(server.engine.waiting)) != (1, 1):
        time.sleep(0.01)
    with pytest.raises(openai.RateLimitError) as refused:
        server.ask("c", max_tokens=1)
    assert refused.value.response.headers["retry-after"] == "1"
    thread.join()
    assert late == [503]
    server.client.post("/sessions", cast_to=dict, body={})
    with pytest.raises(openai.InternalServerError, match="no more sessions"):
        server.client.post("/sessions", cast_to=dict, body={})


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_has_gone_frees_its_place_within_a_second(start, is_stream):
    server = start(together=1)
    body = {"model": "nano", "prompt": "a", "max_tokens": 4000, "stream": is_stream}
    body = json.dumps({**body, "temperature": 0})  # with which it never ends a text
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    while not server.engine.active:
        time.sleep(0.01)
    if is_stream:
        connection.getresponse().read(100)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    gone_at = time.monotonic()
    while server.engine.active:
        assert time.monotonic() < gone_at + 1.5  # one second, on a machine that has time
        time.sleep(0.01)


@pytest.mark.lessons
def test_made_up_requests_find_no_failure_of_the_server(start):
    schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
    server, seen = start(tokens=40), set()
    url = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for operation in schema.get_all_operations():

        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(operation.ok().as_strategy())
        def ask(case):
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "nano"
            response = case.call()
            seen.add(response.status_code)
            assert response.status_code != 500, (case.body, case.path_parameters, response.text)

        ask()
    assert {200, 201, 400, 404} <= seen


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    config = TrainConfig(dim=16, layers=1, heads=2, periods=(4,), chunk=4, steps=1)
    save_model(path, config, ByteCoder(), config.build(259).state_dict())
    return path


def command(checkpoint, *flags):
    run = [sys.executable, "-m", "nested.language", "serve", "--checkpoint", str(checkpoint)]
    return subprocess.Popen(
        [*run, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_ends_answers_properly(checkpoint):
    process = command(checkpoint, "--port", "0")
    port = int(process.stdout.readline().split("/v1")[0].rsplit(":", 1)[1])
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    stream = client.completions.create(
        model="tiny", prompt="a", max_tokens=4000, stream=True, temperature=0
    )
    reasons = []
    for number, chunk in enumerate(stream):
        reasons.append(chunk.choices[0].finish_reason)
        if number == 3:
            process.send_signal(signal.SIGINT)
    assert reasons[-1] == "length" and 4 < len(reasons) < 4000
    assert process.wait(timeout=20) == 130
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--host", "0.0.0.0"], "error: others reach 0.0.0.0: choose a secret --token"),
        (["--port", "{used}"], "error: cannot serve on 127.0.0.1, port {used}: Address already"),
        (["--port", "99999"], "error: cannot serve on 127.0.0.1, port 99999"),
        (["--waiting", "0"], "error: the limit waiting is above 0, but got 0"),
    ],
)
def test_a_server_that_cannot_start_says_why(checkpoint, flags, words):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        process = command(checkpoint, *(flag.format(used=port) for flag in flags))
        out, error = process.communicate(timeout=60)
    assert process.returncode == 1 and words.format(used=port) in error
    assert "Traceback" not in error and os.environ.get("NESTED_TOKEN") is None
