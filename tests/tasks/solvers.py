"""Exact answers to every task on texts, from the tokens alone: what a perfect model would say.

A solver takes a task and one text, a list of tokens, and gives an answer for each token, left to
right. An answer where nothing is asked means nothing.
"""

from itertools import permutations

import torch


def solve(task, tokens):
    """Answer each text of tokens (B, T): logits (B, T, V), 1 at the answer."""
    answers = torch.tensor([SOLVERS[type(task).__name__](task, text) for text in tokens.tolist()])
    return torch.nn.functional.one_hot(answers.clamp(min=0), task.vocab).float()


def legal_next(name, text):
    """The symbols that may follow a string, by counting its letters."""
    count = {letter: text.count(letter) for letter in "abc()[]"}
    if name in ("(aa)*", "(abab)*"):
        period = name[1:-2]
        return period[len(text) % len(period)] + "$" * (len(text) % len(period) == 0)
    if name == "shuffle-2":
        closing = ")" * (count["("] > count[")"]) + "]" * (count["["] > count["]"])
        return "([" + (closing or "$")
    if count["b"] == 0:
        return "ab"
    open_blocks = [letter for letter in name[::4] if count[letter] < count["a"]]
    return (open_blocks or "$")[0]


def language(task, tokens):
    text = "".join((task.letters + "$")[token] for token in tokens)
    sets = [legal_next(task.name, text[: t + 1]) for t in range(len(text))]
    inside = text.find("$") if "$" in text else len(text)
    return [task.legal.index(legal) if t < inside else -1 for t, legal in enumerate(sets)]


def is_even(permutation):
    """Whether its cycles of even length are even in number."""
    left, even_cycles = set(range(len(permutation))), 0
    while left:
        start = x = left.pop()
        length = 1
        while permutation[x] != start:
            x = permutation[x]
            left.remove(x)
            length += 1
        even_cycles += length % 2 == 0
    return even_cycles % 2 == 0


def word_problem(task, tokens):
    kind, n = task.group[0], int(task.group[1:])
    if kind == "Z":
        return [sum(tokens[: t + 1]) % n for t in range(len(tokens))]
    elements = [p for p in permutations(range(n)) if kind == "S" or is_even(p)]
    things, answers = tuple(range(n)), []
    for token in tokens:  # carry each thing to its next place
        things = tuple(elements[token][x] for x in things)
        answers.append(elements.index(things))
    return answers


def recall(task, tokens):
    value_of, answers = {}, []
    for before, token in zip([None, *tokens], tokens):
        answers.append(value_of.get(token, -1))
        if task.keys <= token < 2 * task.keys:
            value_of[before] = token
    return answers


def fuzzy_recall(task, tokens):
    value_of, key, value, answers = {}, [], [], []
    for token in tokens:
        if token >= task.half:
            value.append(token)
        elif value:  # a new key begins
            value_of[tuple(key)] = value
            key, value = [token], []
        else:
            key.append(token)
        known = value_of.get(tuple(key), [])[len(value) :]
        answers.append(known[0] if known else -1)
    return answers


def selective_copying(task, tokens):
    blank, copy = task.vocab - 2, task.vocab - 1
    start = tokens.index(copy) + 1
    symbols = [token for token in tokens[:start] if token < blank]
    return [-1] * start + symbols


def compression(task, tokens):
    return tokens  # as no model of new_model can


def memorisation(task, tokens):
    """The values of keys come from training texts: there are none in this one."""
    texts, targets = task.batch(torch.Generator().manual_seed(99), length=2048)
    value_of = dict(zip(texts[:, ::2].flatten().tolist(), targets[:, 1::2].flatten().tolist()))
    return [value_of.get(before, -1) for before in [None, *tokens][:-1]]


SOLVERS = {
    "Language": language,
    "WordProblem": word_problem,
    "InContextRecall": recall,
    "NoisyRecall": recall,
    "FuzzyRecall": fuzzy_recall,
    "SelectiveCopying": selective_copying,
    "Compression": compression,
    "Memorisation": memorisation,
}
