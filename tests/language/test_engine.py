"""Many texts side by side: each is what it would be alone, and the limits hold."""

import queue
import threading
import time

import pytest
import torch

from nested.language.coder import ByteCoder
from nested.language.engine import Engine, Job, Limits, Refused
from nested.language.sessions import Sessions
from nested.language.writing import Draft, Sampling, generate
from tests.language.test_writing import build
from tests.problems import generator

PROMPTS = ["O", "ROMEO:\n", "Speak, friend. " * 30, "é", "", "To be", "Wherefore art thou?\n"]


class Asked:
    """A job whose pieces are kept. ``whole`` waits for its end, and returns text and reason."""

    def __init__(self, engine, prompt, tokens=20, seed=0, state=None, stop=()):
        coder = ByteCoder()
        sampling = Sampling(1.0 if tokens < 1000 else 0.0)  # long texts never end by themselves
        draft = Draft(coder, tokens, sampling, list(stop), generator(seed)) if tokens else None
        read = coder.encode(prompt.encode()) or [256]
        state = engine.model.init(1) if state is None else state
        self.pieces = queue.Queue()
        self.job = Job(read, draft, state, lambda piece, why: self.pieces.put((piece, why)))
        engine.submit(self.job)

    def whole(self):
        text, reason = "", None
        while reason is None:
            piece, reason = self.pieces.get(timeout=60)
            text += piece
        return text, reason


@pytest.fixture
def running():
    engines = []

    def run(model, **limits):
        engines.append(Engine(model, ByteCoder(), Limits(**limits)))
        return engines[-1]

    yield run
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention"])
def test_each_of_many_texts_is_what_it_would_be_alone(running, mixer):
    model = build(mixer=mixer).double()
    engine, asked = running(model, together=4), []
    for number, prompt in enumerate(PROMPTS):
        asked.append(Asked(engine, prompt, 5 + 9 * number % 40, number, stop=["~"]))
        time.sleep(0.01 * (number % 3))  # some come while others are written
    for number, (prompt, ask) in enumerate(zip(PROMPTS, asked)):
        alone = generate(
            model, ByteCoder(), prompt, 5 + 9 * number % 40, generator=generator(number), stop=["~"]
        )
        text = "".join(alone)
        assert ask.whole() == (text, alone.reason)
        after, expected = (model(torch.tensor([[7]]), s)[0] for s in (ask.job.state, alone.state))
        assert (after - expected).abs().max() < 1e-9


def test_a_text_that_is_only_read_leaves_its_state(running):
    model = build().double()
    asked = Asked(running(model), PROMPTS[2], tokens=0)
    assert asked.whole() == ("", "stop")
    _, expected = model(torch.tensor([ByteCoder().encode(PROMPTS[2].encode())]))
    logits = [model(torch.tensor([[7]]), state)[0] for state in (asked.job.state, expected)]
    assert (logits[0] - logits[1]).abs().max() < 1e-9


def test_a_cancelled_text_frees_its_place(running):
    engine = running(build(), together=1)
    first, second = Asked(engine, "a", 100_000), Asked(engine, "b", 3)
    assert first.pieces.get(timeout=60)[1] is None
    first.job.cancel()
    assert second.whole()[1] == "length"
    assert first.whole()[1] == "cancelled"


def test_too_many_requests_are_refused_and_those_that_wait_too_long(running):
    engine = running(build(), together=1, waiting=1, patience=0.3)
    first = Asked(engine, "a", 100_000)
    first.pieces.get(timeout=60)
    waiting = Asked(engine, "b", 3)
    with pytest.raises(Refused, match="1 requests wait already") as refused:
        Asked(engine, "c", 3)
    assert refused.value.status == 429
    reason = waiting.whole()[1]
    assert reason.status == 503 and "waited too long" in str(reason)
    first.job.cancel()


def test_a_text_ends_when_its_time_is_over_and_shows_what_was_held_back(running):
    engine = running(build(), seconds=0.5)
    asked = Asked(engine, "a", 1_000_000)
    text, reason = asked.whole()
    assert reason == "length" and text == asked.job.draft.text


def test_a_text_that_is_not_read_in_time_is_refused_and_says_so(running):
    engine = running(build(), seconds=0.3)
    asked = Asked(engine, "a" * 100_000, tokens=0)
    reason = asked.whole()[1]
    assert reason.status == 503 and "was not read within 0.3 seconds" in str(reason)
    assert not asked.job.is_read


def test_a_waiting_text_that_is_cancelled_leaves_its_place(running):
    engine = running(build(), together=1, waiting=1)
    first = Asked(engine, "a", 100_000)
    first.pieces.get(timeout=60)
    waiting = Asked(engine, "b", 3)
    waiting.job.cancel()
    third = Asked(engine, "c", 3)
    first.job.cancel()
    assert waiting.whole()[1] == "cancelled" and third.whole()[1] == "length"


def test_closing_ends_texts_and_refuses_what_waits_and_what_comes(running):
    engine = running(build(), together=1)
    first, second = Asked(engine, "a", 100_000), Asked(engine, "b", 3)
    first.pieces.get(timeout=60)
    engine.close()
    assert first.whole()[1] == "length"
    assert second.whole()[1].status == 503
    with pytest.raises(Refused, match="shutting down"):
        Asked(engine, "c", 3)


def test_a_model_that_fails_ends_its_texts_and_not_the_engine(running):
    engine = running(build())
    bad = Asked(engine, "a", 5, state={"blocks": ()})
    assert bad.whole()[1].status == 500
    assert Asked(engine, "a", 5).whole()[1] == "length"


def test_a_text_that_cannot_be_drawn_ends_alone(running):
    engine = running(build())
    other = Asked(engine, "a", 100)
    bad = Asked(engine, "b", 100)
    bad.job.draft.push = lambda logits: 1 / 0
    assert bad.whole()[1].status == 500
    text, reason = other.whole()
    assert reason == "length" and len(other.job.draft.tokens) == 100


def test_limits_are_checked():
    with pytest.raises(ValueError, match="waiting is a whole number from 1, but got 1.5"):
        Limits(waiting=1.5)
    with pytest.raises(ValueError, match="seconds is above 0, but got nan"):
        Limits(seconds=float("nan"))
    with pytest.raises(ValueError, match="at most 64"):
        Limits(together=65)


def test_sessions_have_secret_names_one_user_at_a_time_and_limits():
    state = torch.zeros(1, 30)
    sessions = Sessions(lambda: state, Limits(sessions=2, idle=0.2, numbers=29))
    names = {sessions.create(), sessions.create()}
    assert len(names) == 2 and all(len(name) == 43 for name in names)
    with pytest.raises(Refused, match="no more sessions"):
        sessions.create()
    name = names.pop()
    with pytest.raises(Refused, match="full"):
        sessions.take(name)
    time.sleep(0.3)  # now they have been idle for too long
    with pytest.raises(Refused, match="no such session"):
        sessions.take(name)


def test_a_session_in_use_is_busy_and_stays_deleted():
    sessions = Sessions(lambda: torch.zeros(1, 3), Limits())
    name = sessions.create()
    sessions.take(name)
    with pytest.raises(Refused, match="answering another request"):
        sessions.take(name)
    sessions.put(name, torch.ones(1, 3))
    assert sessions.take(name).sum() == 3
    sessions.delete(name)
    sessions.put(name, torch.ones(1, 3))
    with pytest.raises(Refused, match="no such session"):
        sessions.delete(name)


def test_many_threads_ask_one_engine(running):
    model = build().double()
    engine, found = running(model, together=8, waiting=100), {}

    def ask(number):
        found[number] = Asked(engine, f"n{number}", 12, number).whole()[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for number, text in found.items():
        alone = generate(model, ByteCoder(), f"n{number}", 12, generator=generator(number))
        assert text == "".join(alone)
    assert engine.active == [] and not engine.waiting
