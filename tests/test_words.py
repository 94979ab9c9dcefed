"""The words of the README, the lessons and the docstrings: short sentences, the field's own terms.

``python tests/test_words.py`` prints every fault; with paths, it prints those of these files.
"""

import ast
import inspect
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        ROOT / "README.md",
        ROOT / "main.py",
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "examples").rglob("*.py"),
        *(ROOT / "nested").rglob("*.py"),
        *(ROOT / "nested" / "language").glob("*.md"),
    ]
    # a course copy has no tests/homework, and its homework holds students' answers
    if path.parent.name != "homework" or (ROOT / "tests" / "homework").exists()
)
LONGEST, MEDIAN, ENOUGH = 30, 16, 5  # words; words; sentences of a file before it has a median

# A hyphen on either side makes another word: "trade-off", "off-diagonal", "look-up".
FORBIDDEN = {
    "told": r"(?<!-)\btold\b",
    "look": r"(?<!-)\blook(s|ed|ing)?\b(?!-| up\b| ahead\b)",
    "off": r"(?<!-)(?<!switched )(?<!turned )(?<!cut )(?<!cuts )\boff\b(?!-)",
    "fall": r"(?<!-)\bfalls?\b(?!-| back\b)",
    "so many": r"\bso many\b",
    "by wiggling": r"\bwiggl\w+\b",
}
SHORTENED = re.compile(r"\b(e\.g|i\.e|eqs?|vs|al|Fig|Sec|App|cf|approx|no|pp?)\.(?=[\s)])")
END = re.compile(r"""(?<=[.!?])["')*]*\s+(?=["'(*]*[A-Z`])|\s+·\s+""")


def paragraphs(text: str) -> Iterator[str]:
    """Give each paragraph and list item of Markdown or of a docstring, as one line."""
    text = re.sub(r"(```|~~~).*?\1", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"^(#+ .*|\|.*|\s*<.*>|Source: .*)$", "\n", text, flags=re.MULTILINE)
    code = r"^( {4,}|\s*python -m ).*$"  # an equation, or a command
    text = re.sub(code, "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*([-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        line = re.sub(r"``.+?``|`[^`]+`", "`code`", " ".join(paragraph.split()))
        line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)
        if line and not line.startswith(("Source:", "Paper:")):
            yield line


def sentences(text: str) -> list[str]:
    """Split a text into its sentences. Code in backticks counts as one word."""
    lines = (SHORTENED.sub(r"\1", line) for line in paragraphs(text))
    return [sentence for line in lines for sentence in END.split(line) if words(sentence)]


def words(sentence: str) -> int:
    """Count words and numbers. Symbols of an equation do not count."""
    return sum(bool(re.search(r"[A-Za-z]{2}|^\W*[aA\d]\b", word)) for word in sentence.split())


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Give the docstrings of a module and of its public classes, functions and methods."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield inspect.cleandoc(ast.get_docstring(node) or "")
        for child in getattr(node, "body", []):
            kinds = (ast.ClassDef, ast.FunctionDef)
            if isinstance(child, kinds) and not isinstance(node, ast.FunctionDef):
                if not child.name.startswith("_"):
                    waiting.append(child)


def texts(path: str) -> list[str]:
    """Give what people read in a file: Markdown, public docstrings and a lesson's text cells."""
    source = (ROOT / path).read_text()
    if path.endswith(".md"):
        return [source]
    cells = re.findall(r"^# %% \[markdown\].*\n((?:#.*\n)*)", source, flags=re.MULTILINE)
    cells = [re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells]
    return [*docstrings(ast.parse(source)), *cells]


def messages(path: str) -> Iterator[str]:
    """Give a Python file's other texts: comments, private docstrings, printed lines and errors."""
    source = (ROOT / path).read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if len(node.value.split()) > 2:
                yield inspect.cleandoc(node.value)


def unexplained(text: str) -> list[str]:
    """Give the glossary's terms that a text uses before it explains them.

    The glossary is the section whose title ends in "words" or "glossary"; its terms are bold. A
    term may come earlier where it is itself bold, italic or a link: there it is explained."""
    head = re.search(r"^#+ .*(words|glossary)$", text, flags=re.MULTILINE | re.IGNORECASE)
    if head is None:
        return ["no glossary"]
    section = re.split(r"^#+ ", text[head.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    before = re.sub(r"(```|~~~).*?\1|`[^`]*`", "", text[: head.start()], flags=re.DOTALL)
    before = re.sub(r"^#+ .*$|\]\([^)]*\)", "]", before, flags=re.MULTILINE)
    faults = []
    for term in re.findall(r"\*\*([^*]+)\*\*", section):
        first = re.search(rf"(\W{{0,2}})\b{re.escape(term)}s?\b", before, flags=re.IGNORECASE)
        if first and not first[1].endswith(("*", "[", "_")):
            faults.append(f'"{term}" is used before it is explained')
    return faults


def faults(path: str) -> list[str]:
    """Give every fault of one file's prose, a line each."""
    prose = [sentence for text in texts(path) for sentence in sentences(text)]
    short = [s for text in messages(path) for s in sentences(text)] if path[-2:] == "py" else []
    lengths = [words(sentence) for sentence in prose]
    lines = [f"{n} words: {s}" for n, s in zip(lengths, prose) if n > LONGEST]
    if len(lengths) >= ENOUGH and statistics.median(lengths) >= MEDIAN:
        lines.append(f"the median sentence has {statistics.median(lengths):g} words")
    for word, pattern in FORBIDDEN.items():
        for sentence in dict.fromkeys(prose + short):
            if re.search(pattern, sentence, flags=re.IGNORECASE):
                lines.append(f'"{word}": {sentence}')
    if path == "README.md":
        lines += unexplained((ROOT / path).read_text())
    return lines


@pytest.mark.parametrize("path", FILES)
def test_sentences_are_short_and_words_are_plain(path):
    lines = faults(path)
    assert not lines, "\n" + "\n".join(lines)


def test_what_is_a_sentence_and_a_word():
    text = "See eq. 13 of the paper, e.g. `f(a, b)`. A step:\n\n    w <- w - lr v\n\n- One.\n- Two!"
    assert sentences(text) == ["See eq 13 of the paper, e.g `code`.", "A step:", "One.", "Two!"]
    assert words("w <- w - lr v (I - k k^T), a rate of 0.5") == 5  # lr, a, rate, of, 0.5


@pytest.mark.parametrize(
    "word, text",
    [
        ("told", "The rule is told the horizon"),
        ("look", "A look at the text"),
        ("off", "How far off it is"),
        ("fall", "The fall of the rate"),
        ("so many", "By so many steps"),
        ("by wiggling", "A derivative by wiggling"),
    ],
)
def test_what_is_forbidden(word, text):
    assert re.search(FORBIDDEN[word], text, flags=re.IGNORECASE)


@pytest.mark.parametrize(
    "text",
    "a trade-off|off-diagonal|switched off|look up|look ahead|a look-up|falls back|offer".split(
        "|"
    ),
)
def test_what_is_no_false_alarm(text):
    assert not any(re.search(pattern, text) for pattern in FORBIDDEN.values())


def test_a_term_is_explained_where_it_is_first_used():
    glossary = "\n## Ten words\nA **window** is K steps.\n"
    assert unexplained("The windows of a run." + glossary)
    for first in ("A *window* is K steps.", "A [window](#ten-words).", "`window`", "Windowed."):
        assert not unexplained(first + glossary), first


def main(arguments: list[str]) -> None:
    """Print the faults of the files named, or of all files."""
    for path in arguments or FILES:
        if lines := faults(path):
            print(path, *lines, sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
