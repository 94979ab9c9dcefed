"""Languages against regular expressions over all short strings; groups against permutations."""

import math
import re
from collections import Counter
from itertools import permutations, product

import pytest
import torch

from nested.tasks import TASKS
from nested.tasks.languages import LANGUAGES, Language, WordProblem, multiplication_table
from tests.problems import generator
from tests.tasks.solvers import is_even, legal_next


def is_word(name, text):
    """Whether a string is in a language, by regular expressions."""
    if name == "shuffle-2":
        kinds = [re.sub(r"[\[\]]", "", text), re.sub(r"[()]", "", text).translate(ROUND)]
        return all(re.fullmatch(NESTED, kind) for kind in kinds)
    if name in ("(aa)*", "(abab)*"):
        return bool(re.fullmatch(name, text))
    blocks = re.fullmatch("(a+)(b+)" + "(c+)" * ("c" in name), text)
    return bool(blocks) and len({len(block) for block in blocks.groups()}) == 1


ROUND = str.maketrans("[]", "()")
NESTED = ""
for _ in range(5):  # balanced up to depth 5
    NESTED = rf"(?:\({NESTED}\))*"


def words_up_to(name, length):
    letters = LANGUAGES[name].letters
    strings = ("".join(s) for n in range(1, length + 1) for s in product(letters, repeat=n))
    return {s for s in strings if is_word(name, s)}


def drawn_words(task, **settings):
    tokens, targets = task.batch(generator(1), **settings)
    letters = task.letters + "$"
    texts = ["".join(letters[i] for i in row).rstrip("$") for row in tokens.tolist()]
    return texts, targets


# of each language: all strings up to a length; longer prefixes may have no end within that length
SHORT = {"(aa)*": (10, 8), "(abab)*": (10, 6), "a^n b^n": (10, 4), "a^n b^n c^n": (10, 2)}
SHORT["shuffle-2"] = (8, 3)


@pytest.mark.parametrize("name", LANGUAGES)
def test_strings_and_sets_are_those_of_all_short_strings(name):
    longest, prefix = SHORT[name]
    words = words_up_to(name, longest)
    task = Language(name, length=longest, batch_size=6000)
    texts, targets = drawn_words(task)
    assert set(texts) <= words
    if name != "shuffle-2":
        assert set(texts) == words
    follows = {}
    for word in words:
        for t in range(min(prefix, len(word)) + 1):
            follows.setdefault(word[:t], set()).add((word + "$")[t])
    for text, row in zip(texts[:300], targets.tolist()):
        assert [t >= 0 for t in row] == [t < len(text) for t in range(longest)]
        for t in range(len(text)):
            if t + 1 <= prefix:
                assert set(task.legal[row[t]]) == follows[text[: t + 1]]
            assert task.legal[row[t]] == legal_next(name, text[: t + 1])


def test_all_shuffles_of_a_length_are_equally_probable():
    texts, _ = drawn_words(Language("shuffle-2", length=6, batch_size=30_000))
    counts = Counter(text for text in texts if len(text) == 6)
    words = {word for word in words_up_to("shuffle-2", 6) if len(word) == 6}
    assert counts.keys() == words and len(words) == 70  # Catalan numbers 5 and 14
    expected = counts.total() / 70
    chi_squared = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_squared < 69 + 4 * math.sqrt(2 * 69)


@pytest.mark.parametrize("name", LANGUAGES)
def test_tests_are_longer_than_training_and_lengths_do_not_overlap(name):
    task = Language(name, length=24, batch_size=200)
    lengths = [
        {len(text) for text in drawn_words(task, length=T)[0]} for T in (None, 24, 48, 96, 192)
    ]
    assert lengths[0] <= set(range(1, 25)) and lengths[0] == lengths[1]
    for drawn, T in zip(lengths[2:], (48, 96, 192)):
        assert T // 2 < min(drawn) <= max(drawn) == T
    assert len(lengths[0]) == 24 // task.shortest


@pytest.mark.parametrize("group", ["S2", "S3", "S4", "A3", "A4", "A5"])
def test_tables_are_compositions_of_permutations(group):
    kind, n = group[0], int(group[1:])
    elements = [p for p in permutations(range(n)) if kind == "S" or is_even(p)]
    table = multiplication_table(group)
    assert len(table) == len(elements) == math.factorial(n) // (1 if kind == "S" else 2)
    for i, j in product(range(len(elements)), repeat=2):
        after = [elements[j][elements[i][x]] for x in range(n)]  # i first
        assert list(elements[table[i, j]]) == after


@pytest.mark.parametrize("group", ["Z2", "Z5", "S3", "A5"])
def test_tables_are_groups(group):
    table = multiplication_table(group)
    n = torch.arange(len(table))
    assert torch.equal(table[0], n) and torch.equal(table[:, 0], n)
    assert torch.equal(table[table], table[:, table])  # (a b) c = a (b c)
    assert all(torch.equal(row.sort().values, n) for row in (*table, *table.T))


@pytest.mark.parametrize("group", ["S3", "A5"])
def test_two_letters_make_the_whole_group(group):
    task = TASKS["groups"][group]()
    made = {0}
    for _ in range(60):
        made |= {int(task.table[x, letter]) for x in made for letter in task.letters}
    assert made == set(range(len(task.table)))
    half, third = task.letters
    assert task.table[half, half] == 0 and task.table[third, task.table[third, third]] == 0
    tokens, _ = task.batch(generator())
    assert set(tokens.flatten().tolist()) == {half, third}


def test_s3_and_a5_do_not_commute_and_sums_do():
    for group, commutes in {"Z2": True, "Z5": True, "S3": False, "A5": False}.items():
        table = multiplication_table(group)
        assert torch.equal(table, table.T) == commutes


@pytest.mark.parametrize("length", [1, 2, 3, 37, 64])
def test_every_prefix_is_a_product(length):
    task = WordProblem("A5", batch_size=20)
    tokens, products = task.batch(generator(), length=length)
    state = torch.zeros(20, dtype=torch.int64)
    for t in range(length):
        state = task.table[state, tokens[:, t]]
        assert torch.equal(products[:, t], state)


def test_mistakes_are_said():
    with pytest.raises(ValueError, match=r"a language is one of .* but got 'b\*'"):
        Language("b*")
    with pytest.raises(ValueError, match="a multiple of 3 symbols, and texts of 2 tokens hold"):
        Language("a^n b^n c^n", length=2)
    task = Language("(abab)*", length=40)
    with pytest.raises(ValueError, match="texts of 43 tokens hold none .trained on up to 40"):
        task.batch(generator(), length=43)
    for group in ("Z1", "Z721", "S1", "S7", "A2", "A7", "D4", "S", ""):
        with pytest.raises(ValueError, match="a group is Z2 to Z720 or S2 to S6 or A3 to A6, but"):
            WordProblem(group)
    for name in (["a"], None):
        with pytest.raises(ValueError, match="a language is one of"):
            Language(name)
        with pytest.raises(ValueError, match="a group is Z2"):
            WordProblem(name)
    for letters in ((), (60,), (-1, 3), (1.0,), (True,), 3):
        with pytest.raises(ValueError, match="letters are one or more elements from 0 to 59, but"):
            WordProblem("A5", letters=letters)
