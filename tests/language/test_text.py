"""Prepared text: coders lose nothing, filters say why, and a document stays on its side."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from nested.language import text as text_module
from nested.language.coder import END, ByteCoder, coder_from, special, train_pairs
from nested.language.text import Text, prepare
from nested.support.filters import FilterConfig, Filters, signature
from nested.tasks.sources import documents

PLAY = "HAMLET:\nTo be, or not to be: that is the question.\n"


def words(count, seed=0):
    numbers = np.random.default_rng(seed).integers(0, 5000, count)
    return " ".join(f"word{'abcdefghij'[n % 10]}{chr(97 + n % 23)}{n}" for n in numbers)


@pytest.fixture(scope="module")
def pairs():
    pytest.importorskip("tokenizers")
    return train_pairs([PLAY * 50, "Straße, 東京, 🙂 " * 20], 400)


@given(some.binary(max_size=60))
def test_bytes_lose_nothing(text):
    coder = ByteCoder()
    assert coder.decode(coder.encode(text) + [special(coder, END)]) == text
    assert coder.vocab == 259 and special(coder, END) == 256


@given(text=some.binary(max_size=60) | some.text(max_size=30).map(str.encode))
def test_pairs_lose_nothing_not_even_bytes_that_are_no_utf8(pairs, text):
    tokens = pairs.encode(text)
    assert pairs.decode([*tokens, special(pairs, END)]) == text
    assert all(token < pairs.vocab - 3 for token in tokens)


def test_pairs_join_what_comes_often(pairs):
    assert len(pairs.encode(PLAY.encode())) < len(PLAY) / 2
    assert pairs.vocab <= 400
    again = coder_from(json.loads(json.dumps(pairs.about())))
    assert again.encode(PLAY.encode()) == pairs.encode(PLAY.encode())


@pytest.mark.parametrize(
    "document, reason",
    [
        (b"short", "too short"),
        (b"a" * 3000, "too long"),
        (b"text with \0 in it" * 9, "binary"),
        (b"\xff\xfe\xfd" * 30 + b"word " * 30, "broken UTF-8"),
        (b"0123456789;;++" * 20, "few letters"),
        (words(200).encode(), "kept"),
    ],
)
def test_each_document_that_is_dropped_has_its_reason(document, reason):
    filters = Filters(FilterConfig(max_bytes=2999))
    assert (filters.keep(document) is None) == (reason != "kept")
    assert filters.counts == {reason: 1}


def test_a_rare_broken_byte_is_replaced():
    text = words(200).encode()
    kept = Filters(FilterConfig()).keep(text[:100] + b"\xff" + text[100:])
    assert kept.decode().replace("\ufffd", "").encode() == text


def test_near_duplicates_are_dropped_and_other_texts_are_not():
    text = words(400)
    near = text.replace(text.split()[200], "other", 1)
    filters = Filters(FilterConfig())
    kept = [filters.keep(t.encode()) for t in (text, near, words(400, seed=1), near.upper())]
    assert [t is not None for t in kept] == [True, False, True, True]
    assert Filters(FilterConfig(max_alike=1)).keep(near.encode())


def test_the_signature_estimates_the_share_of_common_runs():
    first, second = words(1000), words(1000, seed=1)
    mixed = " ".join(first.split()[:750] + second.split()[:250])
    runs = [{tuple(t.split()[i : i + 5]) for i in range(996)} for t in (first, mixed)]
    wanted = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
    assert abs((signature(first) == signature(mixed)).mean() - wanted) < 0.2


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"min_letters": 1.2}, "min_letters is a share from 0 to 1, but got 1.2"),
        ({"max_broken": float("nan")}, "max_broken is a share from 0 to 1, but got nan"),
        ({"min_bytes": 0}, "1 <= min_bytes <= max_bytes, but got 0"),
        ({"max_alike": 0}, "max_alike is over 0"),
    ],
)
def test_filters_without_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FilterConfig(**settings)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "texts"
    path.mkdir()
    for seed in range(30):
        (path / f"{seed:02d}.txt").write_text(words(40, seed))
    return path


def quiet(line):
    return None


def sides(text):
    return [
        {text.coder.decode(side.tokens(i)) for i in range(len(side))}
        for side in (text.train, text.held_out)
    ]


def test_a_document_stays_on_its_side_whatever_comes_with_it(folder, tmp_path):
    train, held_out = sides(prepare([str(folder)], tmp_path / "a", held_out=0.3, show=quiet))
    assert len(train) + len(held_out) == 30 and 3 < len(held_out) < 16
    (folder / "00.txt").unlink()
    (folder / "more.txt").write_text(words(60, 77))
    train2, held_out2 = sides(prepare([str(folder)], tmp_path / "b", held_out=0.3, show=quiet))
    assert not train & held_out2 and not held_out & train2


def test_no_side_is_empty(folder, tmp_path):
    _, held_out = sides(prepare([str(folder)], tmp_path / "a", held_out=1e-9, show=quiet))
    assert len(held_out) == 1
    text = prepare([str(folder / "00.txt")], tmp_path / "b", show=quiet)
    (train,), (held_out,) = sides(text)
    assert (train + held_out).decode() == words(40, 0)
    assert len(held_out) == pytest.approx(0.15 * (len(train) + len(held_out)), abs=12)


def test_tokens_come_from_any_shard_and_any_place(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("nested.language.text.SHARD", 1000)
    text = prepare([str(folder)], tmp_path / "a", show=quiet)
    assert len(text.about["shards"]) > 3
    document = text.train.tokens(5)
    assert document[-1] == 256 and len(document) == text.train.lengths[5]
    assert (text.train.tokens(5, 7, 20) == document[7:20]).all()
    assert (text.train.tokens(5, 7, 10**9) == document[7:]).all()


def test_the_default_text_is_27_plays_of_which_three_are_held_out(tmp_path):
    lines = []
    text = prepare(["shakespeare"], tmp_path, show=lines.append)
    assert len(text.train) == 24 and len(text.held_out) == 3
    plays = [text.coder.decode(text.train.tokens(i)).decode() for i in range(24)]
    assert sum("To be, or not to be" in play for play in plays) == 1
    assert lines[0] == "documents: 27 kept" and "3,446,266 bytes" in lines[1]


def test_half_a_prepared_text_is_refused_in_one_sentence(folder, tmp_path):
    out = tmp_path / "a"
    with pytest.raises(ValueError, match="holds no whole prepared text"):
        Text(out)
    prepare([str(folder)], out, show=quiet)
    (shard,) = out.glob("tokens-*")
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"tokens-00000.bin has \d+ of \d+ tokens"):
        Text(out)
    (out / "about.json").write_text("{")
    with pytest.raises(ValueError, match="holds no whole prepared text"):
        Text(out)


def test_links_that_lead_back_and_pipes_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert list(documents(str(tmp_path))) == [("a.txt", b"one")]


def test_a_line_of_json_is_a_document(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "one"}) + "\n\n" + json.dumps({"text": "ß"}) + "\n")
    assert list(documents(str(path))) == [("x.jsonl:1", b"one"), ("x.jsonl:3", "ß".encode())]
    path.write_text('{"words": "one"}\n')
    with pytest.raises(ValueError, match="'x.jsonl', line 1, is no JSON object"):
        list(documents(str(path)))


@pytest.mark.parametrize(
    "source, message",
    [
        ("nowhere/at/all", "there is no text at 'nowhere/at/all': give a file, a folder"),
        ("~nobody-of-this-name/x", "there is no text at '~nobody-of-this-name/x'"),
        ("", "there is no text at ''"),
        ("hub:", "a data set is hub:path"),
        ("hub:a:b:c:d:e", "a data set is hub:path"),
    ],
)
def test_sources_that_are_none_are_refused_in_one_sentence(source, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare([source], tmp_path / "out")


def test_a_library_that_is_missing_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"library datasets: .*pip install -e .\[datasets\]"):
        list(documents("hub:some/set"))


def test_a_data_set_streams_from_a_local_folder(tmp_path):
    pytest.importorskip("datasets", reason="the extra [datasets] is not installed")
    lines = [json.dumps({"body": words(30, seed)}) for seed in range(3)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    found = list(documents(f"hub:{tmp_path}::train:body"))
    assert [text.decode() for _, text in found] == [words(30, seed) for seed in range(3)]
    with pytest.raises(ValueError, match=r"has no text in 'text'; its columns: \['body'\]"):
        list(documents(f"hub:{tmp_path}"))


def test_a_side_without_text_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("To be, or not to be, that is the question.\n" * 2)
    same = {"filters": FilterConfig(max_alike=1.0), "show": lambda line: None}
    with pytest.raises(ValueError, match="the side train has no text: give more"):
        prepare([str(tmp_path)], tmp_path / "out", **same)
    with pytest.raises(ValueError, match="the side held_out has no text: give more"):
        prepare([str(tmp_path / "a.txt")], tmp_path / "out", held_out=0.01, show=lambda line: None)


def test_pairs_are_learned_from_what_is_kept_and_not_held_out(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers", reason="the extra [language] is not installed")
    for seed in range(12):
        (tmp_path / f"{seed}.txt").write_text(words(60, seed))
    (tmp_path / "x.bin").write_bytes(b"\0" * 500)
    learned, train = [], text_module.train_pairs
    keep = lambda texts, vocab: learned.extend(texts) or train(learned, vocab)  # noqa: E731
    monkeypatch.setattr(text_module, "train_pairs", keep)
    text = prepare([str(tmp_path)], tmp_path / "out", vocab=300, show=lambda line: None)
    ours = {text.coder.decode(text.train.tokens(i)).decode() for i in range(len(text.train))}
    assert set(learned) == ours and len(text.held_out) > 0


@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_a_single_document_are_learned_from_it(seed, tmp_path):
    """Also if its hash would hold it out."""
    pytest.importorskip("tokenizers", reason="the extra [language] is not installed")
    (tmp_path / "a.txt").write_text(words(300, seed))
    settings = {"vocab": 300, "held_out": 0.9, "show": lambda line: None}
    assert prepare([str(tmp_path / "a.txt")], tmp_path / "out", **settings).coder.vocab == 300


def test_when_nothing_is_left_the_reasons_are_said(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="no document of .* is left: 1 binary"):
        prepare([str(tmp_path / "a.bin")], tmp_path / "out")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="is left: 1 too short"):
        prepare([str(tmp_path / "a.bin")], tmp_path / "out")
