"""Talk with a model on a terminal, tell it things, and see which level moved.

Source: ours. A model of plays answers as a person of a play: names stand in front of speeches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Generator, Tensor

from nested.language.checkpoint import load_state, save_state
from nested.language.coder import Coder
from nested.language.remembering import memorise
from nested.language.writing import generate
from nested.memory.state import count_numbers
from nested.models.model import SequenceModel
from nested.models.movement import movement
from nested.models.token_reader import TokenReader
from nested.support.progress import visible

HELP = """/remember TEXT   read TEXT into the memory
/ask TEXT        what most likely comes after TEXT, to the end of the line
/forget          start with an empty memory
/save FILE       save the memory; /load FILE brings it back
/why             which level moved most at which words of the last turn
/quit            leave; Ctrl-C ends an answer"""
MOST = 3  # words that /why names for each level
YOU, THEM = "STRANGER", "HAMLET"  # names in front of speeches


def speeches(messages: Iterable[tuple[str, str]], you: str = YOU, them: str = THEM) -> str:
    """Write ``messages``, pairs of a role and its words, as a scene of a play that goes on with a
    speech of ``them``.

    The role "user" speaks as ``you`` and "assistant" as ``them``. Words of another role stand
    alone.
    """
    names = {"user": f"{you}:\n", "assistant": f"{them}:\n"}
    scene = "".join(f"{names.get(role, '')}{words}\n\n" for role, words in messages)
    return f"{scene}{them}:\n"


class Chat:
    """A talk between ``you`` and ``them``, with its memory in ``state``.

    ``show`` gets all that is printed, piece by piece. ``settings`` go to ``generate``.
    """

    def __init__(
        self,
        model: SequenceModel,
        coder: Coder,
        show: Callable[[str], None],
        *,
        you: str = YOU,
        them: str = THEM,
        generator: Generator | None = None,
        **settings: object,
    ) -> None:
        self.model, self.coder, self.show, self.you, self.them = model, coder, show, you, them
        self._reader = TokenReader(model)
        self.settings = {"tokens": 300, "temperature": 0.8, "top_p": 0.9, **settings}
        self.generator, self.state = generator, model.init(1)
        self._before, self._turn, self._gap = self.state, "", ""
        generate(self._reader, coder, "\n", **self.settings)  # refuses wrong settings before a talk

    def turn(self, line: str) -> bool:
        """Take one ``line``: a command, or words to answer. Returns False when the talk is over."""
        line = line.encode("utf-8", "replace").decode()  # a terminal can send what is no text
        command, _, rest = line.strip().partition(" ")
        commands = {
            "/remember": self.remember,
            "/ask": self.ask,
            "/forget": lambda _: self.forget(),
            "/save": self.save,
            "/load": self.load,
            "/why": lambda _: self.why(),
            "/help": lambda _: self.show(HELP + "\n"),
        }
        if command == "/quit":
            return False
        try:
            if command in commands:
                commands[command](rest)
            elif command.startswith("/"):
                self.show(f"there is no command {command}\n{HELP}\n")
            elif command:
                self.answer(line.strip())
        except (ValueError, RuntimeError, OSError) as error:  # the talk goes on
            self.show(f"error: {error}\n")
        return True

    def answer(self, words: str) -> None:
        """Show an answer to ``words``. Ctrl-C ends it; what was read stays in the memory."""
        self.show(f"{self.them}: ")
        prompt = speeches([("user", words)], self.you, self.them)
        self._write(prompt, "\n\n", self.settings)

    def ask(self, text: str) -> None:
        """Show ``text``, and what most likely ends its line. Raises ``ValueError`` if there is
        none."""
        if not text:
            raise ValueError("there is nothing to go on from: write /ask TEXT")
        self.show(visible(text))
        self._write(text, "\n", {**self.settings, "temperature": 0.0})

    def _write(self, prompt: str, stop: str, settings: dict[str, object]) -> None:
        prompt, self._before = self._gap + prompt, self.state
        more = {"state": self.state, "stop": [stop], "generator": self.generator, **settings}
        writing = generate(self._reader, self.coder, prompt, **more)
        try:
            for piece in writing:
                self.show(visible(piece))
        except KeyboardInterrupt:
            self.show(" ...")
        self.state = self.model.init(1) if writing.state is None else writing.state
        self._turn = prompt + writing.text
        # between two speeches are two ends of a line
        self._gap = "\n\n"[len(stop) :] if writing.reason == "stop" else "\n\n"
        self.show("\n" + self._moved() + "\n")

    def _moved(self) -> str:
        moved = movement(self.model, self._before, self.state)
        parts = ", ".join(f"{name} {share:.1%}" for name, share in moved.items())
        size = count_numbers(self.state)
        return f"[memory: {size:,} numbers; moved: {parts or 'no level'}]"

    def remember(self, text: str) -> None:
        """Read ``text`` into the memory. Raises ``ValueError`` if there is none."""
        if not text:
            raise ValueError("there is nothing to remember: write /remember TEXT")
        self._before, self._turn = self.state, text
        self.state = memorise(self.model, self.state, self.coder.encode((text + "\n").encode()))
        self.show(self._moved() + "\n")

    def forget(self) -> None:
        """Start with an empty memory."""
        self.state = self._before = self.model.init(1)
        self._turn = self._gap = ""
        self.show("[the memory is empty]\n")

    def save(self, path: str) -> None:
        """Save the memory in a file."""
        save_state(Path(path or "memory.pt"), self.model, self.state)
        self.show(f"[saved in {path or 'memory.pt'}]\n")

    @torch.no_grad()
    def load(self, path: str) -> None:
        """Take the memory from a file."""
        state = load_state(Path(path or "memory.pt"), self.model)
        self.model(self._tokens("\n"), state)  # refuses what it could not read
        self.state, self._before, self._turn, self._gap = state, state, "", ""
        self.show(f"[the memory of {path or 'memory.pt'}]\n")

    def _tokens(self, text: str) -> Tensor:
        device = next(self.model.parameters()).device
        return torch.tensor([self.coder.encode(text.encode())], device=device)

    @torch.no_grad()
    def why(self) -> None:
        """Show at which words of the last turn each level moved most."""
        state, moves = self._before, {}
        for word in self._turn.replace("\n", " ").split():
            _, after = self.model(self._tokens(f" {word}"), state)
            for level, share in movement(self.model, state, after).items():
                moves.setdefault(level, []).append((share, word))
            state = after
        for level, words in moves.items():
            best = sorted(words, reverse=True)[:MOST]
            shares = ", ".join(f"{visible(word)} {share:.1%}" for share, word in best if share)
            self.show(f"{level}: {shares}\n")
        if not moves:
            self.show("[nothing was said yet, or no level moves]\n")
