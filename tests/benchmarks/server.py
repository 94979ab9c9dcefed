"""Many clients ask one server: is each answer the model's own, and do time and memory stay bounded?

    python -m tests.benchmarks.server --clients 200 --seconds 60 [--checkpoint DIR]

Half of the clients talk in sessions. A refused client waits as long as
the server says. Afterwards each
answer is written once more by the model alone.
"""

import argparse
import asyncio
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import openai
import torch
from torch import Generator

from nested.language.checkpoint import load, save_model
from nested.language.coder import ByteCoder
from nested.language.config import TrainConfig
from nested.language.writing import generate

WORDS = "what light through yonder window breaks it is the east and Juliet is the sun".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--checkpoint", help="a trained model; else a small one without training")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(args.checkpoint or small_model(Path(folder) / "small.pt"))
        flags = ["--checkpoint", str(path), "--port", "0", "--sessions", str(args.clients)]
        command = [sys.executable, "-m", "nested.language", "serve", *flags]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().split(" at ")[1].split(",")[0]
            before = memory_of(server.pid)
            talks, refused, times = asyncio.run(crowd(url, path.stem, args))
            after = memory_of(server.pid)
        finally:
            server.send_signal(signal.SIGINT)
        status = server.wait(timeout=30)
        model, coder = load(path)
    print(f"{len(times)} answers in {args.seconds:g} s to {args.clients} clients,", end=" ")
    print(f"half of them within {statistics.median(times):.2f} s, all within {max(times):.2f} s")
    print(f"refused: {dict(refused) or 'none'}; the server ended with status {status}")
    print(f"memory of the server: {before:.0f} MiB at first, {after:.0f} MiB at the end")
    wrong = sum(is_wrong(model, coder, talk) for talk in talks)
    print(f"{wrong} of {len(talks)} talks have an answer that the model alone does not give")
    sys.exit(bool(wrong))


def small_model(path):
    torch.manual_seed(0)
    config = TrainConfig(dim=64, layers=2, heads=2, periods=(16, 64), chunk=16, steps=1)
    save_model(path, config, ByteCoder(), config.build(259).state_dict())
    return path


def memory_of(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def crowd(url, model, args):
    """All talks, [(prompt, tokens, seed, answer), ...] each; the refusals; seconds of answers."""
    client = openai.AsyncOpenAI(base_url=url, api_key=os.environ.get("NESTED_TOKEN", "none"))
    client = client.with_options(max_retries=0, timeout=120)
    talks, refused, times = [], Counter(), []
    until = time.monotonic() + args.seconds

    async def patiently(ask):
        while time.monotonic() < until:
            try:
                return await ask()
            except openai.APIStatusError as error:
                refused[error.status_code] += 1
                await asyncio.sleep(float(error.response.headers.get("retry-after", 1)))
        return None

    async def ask(prompt, tokens, seed, session, is_stream):
        more = {"max_tokens": tokens, "seed": seed, "stream": is_stream, "temperature": 0.9}
        more |= {"extra_body": {"session": session}} if session else {}
        answer = await client.completions.create(model=model, prompt=prompt, **more)
        if not is_stream:
            return answer.choices[0].text
        return "".join([chunk.choices[0].text async for chunk in answer])

    async def talk(number):
        source, turns = random.Random(number), []
        is_session = number % 2 == 0
        while time.monotonic() < until:
            if not turns or not is_session:
                session, turns = None, []
                talks.append(turns)
                if is_session:
                    session = (await client.post("/sessions", cast_to=dict, body={}))["id"]
            prompt = " ".join(source.choices(WORDS, k=source.randint(1, 60)))
            turn = (prompt, source.randint(1, 30), source.randrange(2**40))
            started = time.monotonic()
            is_stream = source.random() < 0.5
            text = await patiently(lambda: ask(*turn, session, is_stream))
            if text is None:
                return
            times.append(time.monotonic() - started)
            turns.append((*turn, text))

    await asyncio.gather(*(talk(number) for number in range(args.clients)))
    return [turns for turns in talks if turns], refused, times


def is_wrong(model, coder, talk):
    """Whether the model alone, reading the turns of a talk in order, gives another answer."""
    state = None
    for prompt, tokens, seed, text in talk:
        source = Generator().manual_seed(seed)
        alone = generate(
            model, coder, prompt, tokens, state=state, temperature=0.9, generator=source
        )
        if "".join(alone) != text:
            return True
        state = alone.state
    return False


if __name__ == "__main__":
    main()
