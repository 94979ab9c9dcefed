"""The picture of an unroll shows what the student's function did, and where its graph is cut."""

from pathlib import Path

import pytest

from nested.homework.__main__ import main
from nested.homework.draw import describe, draw_submission
from nested.homework.registry import read_worth
from nested.homework.slots import SLOTS
from nested.homework.slots.unrolls import RemoteUnroll
from nested.homework.trace import Edges, trace
from tests.homework.mutants import ANSWERS, MUTANTS, Box, right_answer, write
from tests.homework.test_grade import STUBS

DRAWN = [name for name, slot in SLOTS.items() if slot.unroll is not None]
STYLES = sorted((Path(__file__).parent / "styles").glob("hw_zero_*.py"))
CUTS = {  # what each fault cuts, in the words of Edges, and at which of 4 steps
    ("hw0", "detached state"): ("buffer", (1, 2, 3)),
    ("hw0", "lr as a float"): ("lr", (0, 1, 2, 3)),
    ("hw0", "no create_graph"): ("gradient", (0, 1, 2, 3)),
    ("hw0", "detached weights"): ("move", (0, 1, 2, 3)),
    ("hw5", "no second derivative"): ("gradient", (0, 1, 2, 3)),
    ("hw5", "no gradient for lr"): ("lr", (0, 1, 2, 3)),
    ("hw_zero", "no create_graph"): ("gradient", (0, 1, 2, 3)),
    ("hw_zero", "detached buffer"): ("buffer", (1, 2, 3)),
    ("hw_zero", "cuts the state between steps"): ("buffer", (1, 2, 3)),
}


def traced(path, slot):
    return trace(RemoteUnroll(Box(path, slot)))


def mutated(slot, fault, folder):
    (mutant,) = [m for m in MUTANTS if (m.slot, m.fault) == (slot, fault)]
    return traced(write(mutant, folder), slot)


def cuts(found):
    return {
        kind: tuple(k for k, edges in enumerate(found.edges) if not getattr(edges, kind))
        for kind in Edges._fields
        if not all(getattr(edges, kind) for edges in found.edges)
    }


def test_the_slots_with_an_unroll_can_be_drawn():
    assert DRAWN == ["hw0", "hw5", "hw_zero"]


@pytest.mark.parametrize(
    ("slot", "path"), [*[(s, right_answer(s)) for s in DRAWN], *[("hw_zero", p) for p in STYLES]]
)
def test_a_right_answer_of_any_style_is_whole(slot, path):
    found = traced(path, slot)
    assert cuts(found) == {} and not found.trouble and "is whole" in describe(found)
    assert len(found.weights) == 5 and found.weights[1] == pytest.approx(0.84828, abs=1e-4)


@pytest.mark.parametrize(("slot", "fault"), CUTS)
def test_a_cut_is_found_at_its_edge_and_at_its_steps(slot, fault, tmp_path):
    kind, steps = CUTS[slot, fault]
    found = mutated(slot, fault, tmp_path)
    assert cuts(found) == {kind: steps} and not found.trouble


def test_a_cut_through_all_that_reaches_the_weights_is_one_at_every_step(tmp_path):
    found = mutated("hw_zero", "cuts the graph between steps", tmp_path)
    assert cuts(found) == dict.fromkeys(("weights", "move", "lr"), (0, 1, 2, 3))


def test_a_cut_at_one_step_alone_is_found_there(tmp_path):
    old = "        losses.append(loss)\n"
    new = old + "        if len(losses) == 2:\n"
    new += "            buffer = {name: v.detach() for name, v in buffer.items()}\n"
    path = tmp_path / SLOTS["hw0"].file
    path.write_text(right_answer("hw0").read_text().replace(old, new))
    assert cuts(traced(path, "hw0")) == {"buffer": (2,)}


def test_a_wrong_step_and_wrong_slopes_are_told_apart(tmp_path):
    values = mutated("hw0", "the first batch every time", tmp_path)
    assert values.trouble == "step 1 is no step of momentum SGD" and values.edges == []
    slopes = mutated("hw5", "forgets to divide by mu", tmp_path)
    assert "from step 1 on the slopes are wrong" in describe(slopes) and len(slopes.edges) == 1


@pytest.mark.parametrize(("folder", "slot"), [(STUBS, "hw0"), (ANSWERS, "hw5")])
def test_a_picture_is_drawn_through_the_sandbox(folder, slot, tmp_path):
    message = draw_submission(folder, slot, read_worth()[slot], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert message.startswith("the old buffer does not" if slot == "hw0" else "the graph is whole")


def test_the_command_line_draws(tmp_path, capsys):
    path = tmp_path / "mine.png"
    assert main(["grade", str(STUBS), "--only", "hw0", "--draw", str(path)]) == 0
    assert "mine.png: the old buffer does not reach the new one" in capsys.readouterr().out
    assert path.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--draw takes one folder and one slot"),
        (["--only", "hw3"], "hw3 has no unroll to draw; choose from hw0, hw5, hw_zero"),
        (["--only", "hw5"], "is not written yet"),
    ],
)
def test_what_cannot_be_drawn_gets_one_sentence(flags, message, tmp_path, capsys):
    assert main(["grade", str(STUBS), *flags, "--draw", str(tmp_path / "a.png")]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("grading")]
    assert len(err) == 1 and err[0].startswith("error: ") and message in err[0]
