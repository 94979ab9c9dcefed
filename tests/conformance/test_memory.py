"""check_memory passes all that is built in, and finds each of many ways to be wrong."""

import re

import pytest
import torch
from torch import nn

from nested.conformance import ConformanceError, check_memory
from nested.conformance import memory as checks
from nested.conformance.check import run_check
from nested.conformance.memory import MEMORY_CHECKS
from nested.memory import Gate, LinearMemory, TitansMemory
from nested.memory.sequence import SequenceMemory
from tests.memory.memories import MEMORIES
from tests.models.models import MODELS

CHECKS = {check.name: check for check in MEMORY_CHECKS}


@pytest.mark.parametrize("name", MEMORIES)
def test_memories_keep_their_contract(name):
    results = check_memory(MEMORIES[name], seed=1)
    assert [result.name for result in results] == list(CHECKS)


@pytest.mark.parametrize("name", MODELS)
def test_models_keep_their_contract(name):
    check_memory(MODELS[name])


class Wrong(LinearMemory):
    """A memory that is right but for what a subclass does to it."""

    def __init__(self, dim, chunk):
        super().__init__(dim, chunk=chunk)


class DropsWhatIsUnfinished(Wrong):
    def read(self, x, memory, position):
        y, after = super().read(x, memory, position)
        whole = (position + x.shape[1]) % self.chunk == 0
        return y, after if whole else memory


class ReadsTheChunksEnd(Wrong):
    def read(self, x, memory, position):
        _, after = super().read(x, memory, position)
        return self.project(x)[2] @ after["matrix"].mT, after


class RemembersNothing(Wrong):
    def read(self, x, memory, position):
        return self.value(x), memory


class SharesOneMemory(Wrong):
    def read(self, x, memory, position):
        y, after = super().read(x, memory, position)
        return y, {"matrix": after["matrix"].mean(0, keepdim=True).expand_as(after["matrix"])}


class CountsInTheModule(Wrong):
    def __init__(self, dim, chunk):
        super().__init__(dim, chunk)
        self.register_buffer("count", torch.zeros(()))

    def read(self, x, memory, position):
        self.count += 1
        return super().read(x, memory, position)


class ClipsInTrainingOnly(Wrong):
    def read(self, x, memory, position):
        y, after = super().read(x, memory, position)
        return y.clamp(-0.1, 0.1) if self.training else y, after


class WritesInPlace(Wrong):
    def read(self, x, memory, position):
        y, after = super().read(x, memory, position)
        if not torch.is_grad_enabled():
            memory["matrix"].copy_(after["matrix"])
        return y, after


class WritesWithShutGates(Wrong):
    def project(self, x):
        keys, values, queries, rates, kept = super().project(x)
        return keys, values, queries, rates + 0.01, kept


class KeepsTheLastToken(SequenceMemory):
    """Not by a gate."""

    def __init__(self, dim, chunk):
        super().__init__(dim)
        self.weight = nn.Parameter(torch.eye(dim))

    def begin(self, batch_size):
        return {"last": self.weight.new_zeros(batch_size, 1, self.dim)}

    def read(self, x, memory, position):
        before = torch.cat([memory["last"], x[:, :-1]], dim=1)
        return (x + before) @ self.weight, {"last": x[:, -1:]}


class KeepsTheLastTokenElsewhere(Wrong):
    def init(self, batch_size):
        return super().init(batch_size) | {
            "last": self.value.weight.new_zeros(batch_size, self.dim)
        }

    def forward(self, x, state=None):
        state = self.init(len(x)) if state is None else state
        y, after = super().forward(x, state)
        before = torch.cat([state["last"][:, None], x[:, :-1]], dim=1)
        return y + before, after | {"last": x[:, -1]}


class ForgetsHalfOfAll(TitansMemory):
    def __init__(self, dim, chunk):
        super().__init__(dim, chunk)
        self.forgetting = Gate(0.1, 0.5, 0.9)


class Explodes(Wrong):
    def project(self, x):
        keys, values, queries, rates, kept = super().project(x)
        return keys, values, queries, rates * 6, kept


class CutsItsWrites(Wrong):
    def read(self, x, memory, position):
        outputs = []
        for part in x.split(8, dim=1):
            y, memory = super().read(part, memory, position)
            memory = {"matrix": memory["matrix"].detach()}
            outputs.append(y)
        return torch.cat(outputs, dim=1), memory


class CutsItsInput(Wrong):
    """Layers below would learn nothing of what they write."""

    def project(self, x):
        keys, values, queries, rates, kept = super().project(x.detach())
        return keys, values, self.project_again(x, queries), rates, kept

    def project_again(self, x, queries):
        return torch.nn.functional.normalize(self.query(x), dim=-1)


class CutsTheStateItGets(Wrong):
    def read(self, x, memory, position):
        return super().read(x, {"matrix": memory["matrix"].detach()}, position)


class ForgetsAllNowAndThen(Wrong):
    def read(self, x, memory, position):
        if position and position % 128 == 0:
            memory = self.begin(len(x))
        return super().read(x, memory, position)


class SharesOneMemoryOfMany(Wrong):
    def read(self, x, memory, position):
        y, after = super().read(x, memory, position)
        if len(x) > 3:
            after = {"matrix": after["matrix"].mean(0, keepdim=True).repeat(len(x), 1, 1)}
        return y, after


class HandsOutItsParameters(TitansMemory):
    def __init__(self, dim, chunk):
        super().__init__(dim, chunk)

    def begin(self, batch_size):
        weights = self.weights(batch_size)
        return {"start": weights, "now": weights}


class HasAnUnusedParameter(Wrong):
    def __init__(self, dim, chunk):
        super().__init__(dim, chunk)
        self.unused = nn.Parameter(torch.ones(dim))


class NeverCuts(Wrong):
    def read(self, x, memory, position):
        return super().read(x, memory, position)

    def forward(self, x, state=None):
        self.detach_every = None
        return super().forward(x, state)


class CutsTooMuch(Wrong):
    def forward(self, x, state=None):
        if self.detach_every:
            x = x.detach() + 0 * x
        return super().forward(x, state)


class TakesAnyState(Wrong):
    def forward(self, x, state=None):
        state = self.init(len(x)) if state is None else state
        y, memory = self.read(x, state["memory"], int(state["position"].max()))
        return y, {"position": state["position"] + x.shape[1], "memory": memory}


class WritesPadding(Wrong):
    def read_masked(self, x, memory, position, write):
        return super().read(x, memory, 0)


class CountsPadding(TitansMemory):
    def forward(self, x, state=None, **masks):
        y, after = super().forward(x, state, **masks)
        before = self.init(len(x))["position"] if state is None else state["position"]
        return y, {**after, "position": before + x.shape[1]}


class KeepsSamplesUpsideDown(Wrong):
    def read(self, x, memory, position):
        y, after = super().read(x, {"matrix": memory["matrix"].flip(0)}, position)
        return y, {"matrix": after["matrix"].flip(0)}


class WritesWholeChunks(Wrong):
    def read(self, x, memory, position):
        if x.shape[1] < self.chunk and position == 0:
            return torch.full_like(x, torch.nan), memory
        return super().read(x, memory, position)


@pytest.mark.parametrize(
    "wrong, check",
    [
        (DropsWhatIsUnfinished, "whole equals parts, at every cut"),
        (ReadsTheChunksEnd, "no read knows a later token"),
        (RemembersNothing, "no read knows a later token"),
        (SharesOneMemory, "samples of a batch are independent"),
        (CountsInTheModule, "reading changes nothing but the state it returns"),
        (ClipsInTrainingOnly, "reading changes nothing but the state it returns"),
        (WritesInPlace, "reading changes nothing but the state it returns"),
        (WritesWithShutGates, "shut gates leave memories as they are"),
        (KeepsTheLastToken, "shut gates leave memories as they are"),
        (KeepsTheLastTokenElsewhere, "shut gates leave memories as they are"),
        (ForgetsHalfOfAll, "memories neither fade nor run away"),
        (Explodes, "memories neither fade nor run away"),
        (SharesOneMemoryOfMany, "samples of a batch are independent"),
        (ForgetsAllNowAndThen, "whole equals parts, at every cut"),
        (HandsOutItsParameters, "reading changes nothing but the state it returns"),
        (WritesPadding, "padding leaves no trace, at every cut"),
        (WritesPadding, "tokens left unwritten leave no trace"),
        (CountsPadding, "padding leaves no trace, at every cut"),
        (KeepsSamplesUpsideDown, "samples of a state can be picked"),
        (CutsItsInput, "gradients go through writes"),
        (CutsTheStateItGets, "gradients go through writes"),
        (CutsItsWrites, "gradients go through writes"),
        (HasAnUnusedParameter, "gradients go through writes"),
        (NeverCuts, "detach_every cuts gradients and nothing else"),
        (CutsTooMuch, "detach_every cuts gradients and nothing else"),
        (TakesAnyState, "mistakes are refused"),
        (WritesWholeChunks, "mistakes are refused"),
    ],
)
def test_each_way_to_be_wrong_is_named(wrong, check):
    verdict = run_check(CHECKS[check], wrong).verdict
    assert not verdict.passed and not re.match(r"\w*(Error|Exception): ", verdict.measured)


def test_what_is_wrong_is_one_error_with_a_line_a_check():
    told = (
        r"RemembersNothing breaks its contract:\n  no read knows .*\n(.*\n)*  gradients go through"
    )
    with pytest.raises(ConformanceError, match=told):
        check_memory(RemembersNothing)


@pytest.mark.parametrize("kind", ["random", "constant"])
@pytest.mark.parametrize(
    "kept, late", [(1, 101), (1, 0.05), (0.05, 1), (float("nan"), 1), (1, float("nan"))]
)
def test_fading_and_running_away_are_told_for_either_kind_of_text(kind, kept, late):
    fine = {kind: {"kept": 1, "late": 1} for kind in ("random", "constant")}
    assert checks._judge_long(fine).passed
    assert not checks._judge_long(fine | {kind: {"kept": kept, "late": late}}).passed


def test_long_texts_are_random_and_constant():
    texts = []

    class Sees(Wrong):
        def read(self, x, memory, position):
            texts.append(x)
            return super().read(x, memory, position)

    checks._probe_long(Sees, 0)
    assert [bool((x == x[:, :1]).all()) for x in texts] == [False, True]


def test_memories_within_a_model_are_looked_at():
    def model(dim, chunk):
        hope = MODELS["linear"](dim, chunk)
        hope.blocks[0].mixer = WritesWithShutGates(dim, chunk)
        return hope

    assert not checks._judge_shut(checks._probe_shut(model, 0)).passed
