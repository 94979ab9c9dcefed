"""Memory at test time keeps what it reads, in the levels that are asked for, also in a file."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nested.language import memorise
from nested.language.chat import Chat
from nested.language.checkpoint import load_state, save_state
from nested.language.coder import ByteCoder
from nested.language.remembering import bits_of
from nested.models import Hope, ModelConfig, Transformer
from nested.models.movement import movement
from tests.language.copying import Copying
from tests.problems import generator

TEXT = "The code of the old wolf is 1234.\n" * 3


def build(mixer="linear", kind=Hope, vocab=259):
    torch.manual_seed(0)
    return kind(ModelConfig(vocab, 16, 2, 2, mixer, (4, 8), 4, ngrams=(2, 3), recall=(4,))).eval()


def equal(first, second, atol=0.0):
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in pairs)


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention"])
def test_memorising_is_reading(mixer):
    model = build(mixer)
    tokens = torch.tensor([list(TEXT.encode())])
    _, wanted = model(tokens)
    assert equal(memorise(model, None, TEXT), wanted, atol=1e-5)
    assert equal(memorise(model, None, ByteCoder().encode(TEXT.encode())), wanted, atol=1e-5)
    assert not any(leaf.requires_grad for leaf in tree_leaves(memorise(model, None, TEXT)))


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod"])
def test_only_what_surprises_is_written(mixer):
    model = build(mixer)
    first = memorise(model, None, "Once upon a time")
    everything = memorise(model, first, TEXT, surprise=0)
    assert equal(everything, memorise(model, first, TEXT), atol=1e-5)
    part = memorise(model, first, TEXT, surprise=8.0)
    written = part["blocks"][0]["mixer"]["position"] - first["blocks"][0]["mixer"]["position"]
    assert 0 < written < len(TEXT)


@torch.no_grad()
def test_bits_are_those_of_the_next_token():
    model, tokens = build(), torch.tensor([list(TEXT[:20].encode())])
    logits, _ = model(tokens)
    whole = bits_of(logits, tokens, None)
    chances = torch.softmax(logits, -1)
    assert whole[0, 0] == torch.inf
    for t in range(1, 20):
        assert whole[0, t] == pytest.approx(
            -chances[0, t - 1, tokens[0, t]].log2().item(), abs=1e-4
        )
    parts = bits_of(logits[:, 9:], tokens[:, 9:], logits[:, 8:9])
    assert torch.allclose(parts, whole[:, 9:])


def test_levels_that_are_not_chosen_keep_what_they_hold():
    model = build("titans")
    first = memorise(model, None, "Once upon a time")
    chosen = {"block 1 continuum, level 2", "block 2 mixer"}
    moved = movement(model, first, memorise(model, first, TEXT, levels=chosen))
    assert {level for level, share in moved.items() if share} == chosen


@pytest.mark.parametrize(
    "text, settings, message",
    [
        ("", {}, "there is nothing to memorise"),
        ("a", {"surprise": -1}, "surprise is 0 bits or more, but got -1"),
        ("a", {"surprise": float("nan")}, "surprise is 0 bits or more, but got nan"),
        (
            "a",
            {"levels": ["block 9"]},
            "this model has no level 'block 9'; its levels: block 1 con",
        ),
    ],
)
def test_what_cannot_be_memorised_is_refused(text, settings, message):
    with pytest.raises(ValueError, match=message):
        memorise(build(), None, text, **settings)


def test_a_model_of_pairs_asks_for_tokens():
    model = build(vocab=400)
    with pytest.raises(ValueError, match=r"pass coder.encode\(text\)"):
        memorise(model, None, "text")
    assert memorise(model, None, [3, 399])


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention"])
def test_a_memory_comes_back_from_its_file_bit_for_bit(mixer, tmp_path):
    model = build(mixer)
    state = memorise(model, None, TEXT)
    save_state(tmp_path / "m.pt", model, state)
    again = load_state(tmp_path / "m.pt", build(mixer))
    more = torch.tensor([list(b"The code")])
    assert torch.equal(model(more, state)[0], model(more, again)[0])
    other = build(mixer)
    with torch.no_grad():
        other.head.weight += 1
    with pytest.raises(ValueError, match="belongs to a model with other weights"):
        load_state(tmp_path / "m.pt", other)
    first, *rest = state["blocks"]
    for wrong in ({"blocks": ()}, {"blocks": ({**first, "is_new": torch.ones(7)}, *rest)}, []):
        save_state(tmp_path / "m.pt", model, wrong)
        with pytest.raises(ValueError, match="does not fit this model"):
            load_state(tmp_path / "m.pt", model)
    torch.save({"format": "?"}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="is no memory that was saved here"):
        load_state(tmp_path / "m.pt", model)


def talk(model=None, **settings):
    shown = []
    chat = Chat(
        model or build(), ByteCoder(), shown.append, generator=generator(), tokens=9, **settings
    )
    return chat, shown


def test_a_talk_remembers_forgets_saves_and_loads(tmp_path):
    chat, shown = talk()
    assert chat.turn("/remember the code is 1234") and "moved: block 1 recall" in shown[-1]
    told = chat.state
    chat.turn(f"/save {tmp_path / 'm.pt'}")
    chat.turn("Who art thou?")
    assert any(part.startswith("HAMLET: ") for part in shown)
    chat.turn("/forget")
    assert not any(movement(chat.model, chat.model.init(1), chat.state).values())
    chat.turn(f"/load {tmp_path / 'm.pt'}")
    assert equal(chat.state, told)
    assert not chat.turn("/quit")


def test_an_answer_is_the_reading_of_the_speech_and_of_what_was_written():
    chat, shown = talk(you="KING", them="FOOL")
    chat.turn("Speak")
    model, start = chat.model, "KING:\nSpeak\n\nFOOL:\n"
    written = "".join(shown[1:-1])
    assert shown[0] == "FOOL: " and len(written) <= 9 and chat._turn.startswith(start)
    position = chat.state["blocks"][0]["mixer"]["position"]
    assert len(start) < position <= len(start) + 9
    assert model is chat.model


def test_asked_facts_are_those_that_were_told():
    """By a model that copies: the most likely end of the line is what was told."""
    chat, shown = talk(Copying())
    chat._reader = chat.model
    chat.turn("/remember The code of owl is 4821.")
    del shown[:]
    chat.turn("/ask The code of owl is")
    assert "".join(shown).startswith("The code of owl is 4821.\n[memory")
    assert chat._gap == "\n"
    chat.turn("/ask")
    assert shown[-1] == "error: there is nothing to go on from: write /ask TEXT\n"


def test_a_speech_that_was_cut_ends_before_the_next_one():
    chat, _ = talk()
    chat.turn("Speak")  # its nine tokens are not the end of a speech
    chat.turn("Again")
    assert chat._turn.startswith("\n\nSTRANGER:\nAgain")
    chat.turn("/forget")
    chat.turn("Again")
    assert chat._turn.startswith("STRANGER:\nAgain")


def test_mistakes_do_not_end_a_talk(tmp_path):
    chat, shown = talk()
    chat.turn("/remember the code is 1234")
    state = chat.state
    assert chat.turn("bytes that are no text: \udcff")
    save_state(tmp_path / "m.pt", chat.model, {"blocks": ()})
    kept = chat.state
    assert chat.turn(f"/load {tmp_path / 'm.pt'}") and shown[-1].startswith("error: ")
    assert chat.state is kept is not state
    assert chat.turn("/remember") and shown[-1] == (
        "error: there is nothing to remember: write /remember TEXT\n"
    )
    with pytest.raises(ValueError, match="tokens is a whole number from 1"):
        Chat(chat.model, chat.coder, shown.append, tokens=0)


def test_ctrl_c_ends_an_answer_and_keeps_what_was_read(monkeypatch):
    chat, shown = talk()

    def show(text, count=[0]):
        count[0] += 1
        shown.append(text)
        if count[0] == 3:
            raise KeyboardInterrupt

    chat.show = show
    assert chat.turn("Speak") and " ..." in shown
    assert chat.state["blocks"][0]["mixer"]["position"] > 10


def test_why_names_the_words_at_which_levels_moved():
    chat, shown = talk()
    chat.turn("/why")
    assert shown[-1] == "[nothing was said yet, or no level moves]\n"
    words = "Speak , friend and enter"
    chat.turn(f"/remember {words}")
    del shown[:]
    chat.turn("/why")
    state, moves = chat.model.init(1), {}
    for word in words.split():
        tokens = torch.tensor([list(f" {word}".encode())])
        with torch.no_grad():
            after = chat.model(tokens, state)[1]
        old, new = (s["blocks"][0]["recall"]["memory"]["matrix"] for s in (state, after))
        moves[word] = ((new - old).norm() / max(old.norm(), new.norm())).item()
        state = after
    best = sorted(moves, key=moves.get, reverse=True)[:3]
    wanted = ", ".join(f"{word} {moves[word]:.1%}" for word in best)
    assert shown[0] == f"block 1 recall: {wanted}\n"
    assert [line.split(":")[0] for line in shown][1] == "block 1 mixer"


@pytest.mark.parametrize(
    "line, message",
    [
        ("/fly", "there is no command /fly\n/remember TEXT"),
        ("/load nowhere.pt", "error: there is no checkpoint at 'nowhere.pt'"),
        (f"/save {'x' * 300}", "error: "),
        (f"/load {'x' * 300}", "error: "),
        ("/help", "/forget          start with an empty memory"),
    ],
)
def test_commands_that_fail_say_so_and_the_talk_goes_on(line, message):
    chat, shown = talk()
    assert chat.turn(line) and message in "".join(shown)
    assert chat.turn("") and chat.turn("   ")


def test_a_transformer_talks_too():
    chat, shown = talk(build(kind=Transformer))
    chat.turn("Speak")
    assert "moved: no level" in shown[-1]
