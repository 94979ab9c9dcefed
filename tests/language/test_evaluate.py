"""Measures: each is checked on a model that copies, or against the definition on a small one."""

import json
import math

import pytest
import torch

from nested.language.choices import class_incremental, log_likelihoods, multiple_choice
from nested.language.coder import ByteCoder
from nested.language.evaluate import by_position, encoded, evaluate, forgetting
from nested.language.recall import WAYS, read_texts, recall_at, recall_facts
from nested.language.writing import generate
from nested.tasks.facts import fillers
from tests.language.copying import Copying
from tests.language.test_writing import build
from tests.problems import generator

CODER = ByteCoder()


def test_a_model_that_copies_recalls_all_facts_and_a_frozen_one_none():
    # not memorised: a text with holes is no text to copy from
    shares = recall_facts(Copying(), CODER, 10, 900, generator(), ways=WAYS[:3])
    assert shares == {"nothing": 0.0, "frozen": 0.0, "live": 1.0}


def test_a_needle_is_found_and_a_passkey(distance=300):
    hay = ["To be, or not to be, that is the question. " * 20] * 3
    for texts in (hay, fillers(3, distance, generator())):
        shares = recall_at(Copying(), CODER, distance, texts, generator(), WAYS[:3])
        assert shares == {"nothing": 0.0, "frozen": 0.0, "live": 1.0}


def test_texts_read_side_by_side_leave_the_states_of_each_alone():
    model, texts = build().double(), ["a", "To be, or not to be. " * 40, "é" * 300]
    together = read_texts(model, CODER, texts)
    for b, text in enumerate(texts):
        _, alone = model(torch.tensor([CODER.encode(text.encode())]))
        word = torch.tensor([[5, 6]])
        ours = model(word.expand(3, -1), together)[0][b]
        assert (ours - model(word, alone)[0][0]).abs().max() < 1e-9


def test_likelihoods_are_those_of_the_whole_text():
    model, endings = build().double(), ["king", "queen of hearts", "é"]
    state = model(torch.tensor([[1, 2, 3]]))[1]
    scores = log_likelihoods(model, CODER, "the ", endings, state)
    for ending, (score, is_best) in zip(endings, scores):
        tokens = torch.tensor([CODER.encode(f"the {ending}".encode())])
        chances = model(tokens, state)[0].log_softmax(-1)[0, 3:-1]
        right = tokens[0, 4:]
        assert score == pytest.approx(chances.gather(1, right[:, None]).sum().item())
        assert is_best == bool((chances.argmax(-1) == right).all())
    asked = log_likelihoods(Copying(), CODER, "a king, a k", ["ing", "ind"])
    assert [is_best for _, is_best in asked] == [True, False]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_classes_that_come_one_after_another_are_kept_by_a_model_that_copies(tmp_path):
    words = {"sky": "a moon", "sea": "a wave", "war": "a sword", "food": "an apple"}
    rows = [
        {"text": f"{start} {word}", "label": label}
        for label, word in words.items()
        for start in ("I saw", "We had", "There is", "Bring me", "Look at")
    ]
    results = class_incremental(Copying(), CODER, write_lines(tmp_path / "c.jsonl", rows))
    assert [result["classes"] for result in results] == [2, 4]
    assert [result["live"] for result in results] == [1.0, 1.0]
    assert results[-1]["frozen"] <= 0.5


def test_multiple_choice_takes_the_ending_that_the_model_would_write(tmp_path):
    question, choices = "a king, a k", ["ind", "ing", "ey"]
    rows = [{"question": question, "choices": choices, "answer": i} for i in (1, 1, 1, 0)]
    path = write_lines(tmp_path / "m.jsonl", rows)
    assert multiple_choice(Copying(), CODER, path) == 0.75


def test_likelihoods_add_up_over_the_bytes_of_an_ending():
    """In a model that finds all tokens alike, each byte costs the same."""

    def even(tokens, state=None, **_):
        return torch.zeros(*tokens.shape, 259), {"blocks": ()}

    even.parameters = lambda: iter([torch.zeros(1)])
    scores = [score for score, _ in log_likelihoods(even, CODER, "a", ["b", "bcde"])]
    assert scores[1] == pytest.approx(4 * scores[0], rel=1e-5)


@pytest.mark.parametrize(
    "lines, words",
    [
        ("", "has no lines"),
        ("{", 'line 1, is no JSON object {"text": text, "label": text}'),
        ('{"text": "a"}', "line 1, is no JSON object"),
        ('{"text": 1, "label": "b"}', "line 1, is no JSON object"),
        ("\n[1]", "line 2, is no JSON object"),
        ('{"text": "a", "label": ""}', "line 1: the label is empty"),
    ],
)
def test_files_of_other_lines_are_refused(lines, words, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match=words):
        class_incremental(build(), CODER, path)
    with pytest.raises(ValueError, match="line 1: choices are texts"):
        rows = [{"question": "a", "choices": ["", "b"], "answer": 0}]
        multiple_choice(build(), CODER, write_lines(path, rows))
    with pytest.raises(ValueError, match="line 1: the answer is the number of one of 2 choices"):
        rows = [{"question": "a", "choices": ["a", "b"], "answer": 2}]
        multiple_choice(build(), CODER, write_lines(path, rows))


def test_lines_can_be_blank_and_hold_any_character(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"question": "a\u2028b", "choices": ["c"], "answer": 0}\n\n', encoding="utf-8")
    assert multiple_choice(build(), CODER, path) == 1.0


def test_bits_by_position_are_means_of_the_losses():
    model = build()
    texts = encoded(CODER, [bytes(range(32, 120)) * 8])
    spans = by_position(model, CODER, texts, 2, 256)
    tokens = torch.tensor(list(bytes(range(32, 120)) * 8))
    losses = []
    for start in (0, 256):
        piece = tokens[start : start + 257]
        chances = model(piece[None, :-1])[0][0].log_softmax(-1)
        losses.append(-chances.gather(1, piece[1:, None])[:, 0] / math.log(2))
    losses = torch.stack(losses)
    assert spans == pytest.approx(
        {"0 to 64": losses[:, :64].mean().item(), "64 to 256": losses[:, 64:].mean().item()},
        rel=1e-4,
    )


def test_forgetting_scores_the_same_new_text_at_four_moments():
    """Against the definition: the bits of one piece after ever longer texts."""
    model = build().double()
    text = [bytes(generator(seed).get_state()[:2200].tolist()) for seed in (1, 2)]
    ours, theirs = encoded(CODER, [text[0]]), encoded(CODER, [text[1]])
    moments = forgetting(model, CODER, ours, theirs, 1, read=512)
    first, new, again = (list(text[0][a:b]) for a, b in ((0, 512), (512, 1537), (1537, 2049)))
    other = list(text[1][:512])
    read = {"at first": [], "ours": first, "theirs": first + other}
    read["ours again"] = read["theirs"] + again
    assert list(moments) == list(read)
    for name, before in read.items():
        state = model(torch.tensor([before]))[1] if before else None
        chances = model(torch.tensor([new[:-1]]), state)[0].log_softmax(-1)[0]
        right = chances.gather(1, torch.tensor(new[1:])[:, None])
        assert moments[name] == pytest.approx(-right.mean().item() / math.log(2), rel=1e-6)


def test_a_report_has_all_that_was_asked_for(tmp_path):
    lines, rows = [], [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(10)]
    classes = write_lines(tmp_path / "c.jsonl", rows)
    report = evaluate(build(), CODER, tmp_path, classes=classes, quick=True, show=lines.append)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["bits a byte"] == report["bits a byte"] and 7 < report["bits a byte"] < 9
    assert set(saved) >= {"by position", "facts", "needle", "passkey", "forgetting", "classes"}
    assert set(saved["forgetting"]) == {"stdlib", "spanish"}
    assert (tmp_path / "report.png").stat().st_size > 10_000
    page = (tmp_path / "report.md").read_text()
    assert f"| {saved['bits a byte']:.3f} |" in page
    shares = " | ".join(f"{saved['facts']['128'][way]:.3f}" for way in WAYS)
    assert f"| facts | {' | '.join(WAYS)} |" in page and f"| 128 | {shares} |" in page
    assert lines[0].startswith("classes: ")
    assert lines[1] == f"next line: {saved['next line']}" and 0 <= saved["next line"] <= 1
    assert lines[2].endswith("bits a byte of held-out text") and len(lines) == 14


def test_the_harness_asks_our_model(tmp_path):
    lm_eval = pytest.importorskip("lm_eval", reason="pip install -e .[lm-eval]")
    from lm_eval.api.instance import Instance

    from nested.language.choices import lm_eval_model

    assert lm_eval.__name__ == "lm_eval"
    model = build()
    adapter = lm_eval_model(model, CODER)

    def ask(kind, *args):
        return getattr(adapter, kind)([Instance(kind, {}, args, 0)])[0]

    score, is_best = ask("loglikelihood", "the ", "king")
    assert score == log_likelihoods(model, CODER, "the ", ["king"])[0][0] and not is_best
    assert ask("loglikelihood_rolling", "a king") < score
    text = ask("generate_until", "the ", {"until": ["\n"], "max_gen_toks": 7})
    assert text == "".join(generate(model, CODER, "the ", 7, temperature=0, stop=["\n"]))


def test_what_cannot_be_measured_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("nested.language.evaluate.recalled", lambda *_: pytest.fail("it works"))
    (tmp_path / "short.txt").write_text("To be, or not to be. " * 80)
    data = [str(tmp_path / "short.txt")]
    with pytest.raises(ValueError, match="no held-out document has 2048 tokens"):
        evaluate(build(), CODER, tmp_path / "out", data=data, quick=True, show=lambda line: None)
    with pytest.raises(ValueError, match="cannot read .*missing.jsonl"):
        missing = tmp_path / "missing.jsonl"
        evaluate(build(), CODER, tmp_path / "out", choices=missing, show=lambda line: None)
