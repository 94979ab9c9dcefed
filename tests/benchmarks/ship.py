"""Put the best model of a training into the package.   python -m tests.benchmarks.ship [RUN]

RUN is a folder that ``python -m nested.language train --out RUN`` wrote. The weights are saved in
half precision, and the last board of the training becomes examples/pictures/board.svg. Without RUN
the shipped model stays as it is.

Then the program loads the model and prints its size, its bits a byte of held-out plays and the
facts that it recalls. It also prints the bytes a second that it writes on one core, at the start
and after 30,000 bytes, and the seconds until ``chat`` has answered.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from nested.language import generate, load, prepare
from nested.language.checkpoint import BEST, SHIPPED, read_model, save_model
from nested.language.dashboard import Dashboard
from nested.language.measures import bits_per_byte, even_pieces
from nested.language.recall import recall_facts
from nested.language.run import LOG
from nested.models.token_reader import TokenReader
from nested.support.files import write_whole

BOARD = Path(__file__).parents[2] / "examples" / "pictures" / "board.svg"
PIECES, SIZE, FACTS, BYTES, RUNS = 64, 1024, 20, 2000, 9
NAME = "nano"
WRITTEN, FAR = 1000, 30_000  # bytes


def ship(run: Path) -> None:
    """Save the best model of ``run`` as the shipped model."""
    config, coder, content = read_model(run / BEST)
    halves = {key: weight.half() for key, weight in content["model"].items()}
    SHIPPED.mkdir(exist_ok=True)
    save_model(SHIPPED / f"{NAME}.pt", config, coder, halves)


def draw_board(run: Path, path: Path) -> None:
    """Draw the board as it stood at the end of ``run``, by the fonts of the reader."""
    board = Dashboard("nano", io.StringIO())
    for line in (run / LOG).read_text().splitlines():
        board.show(json.loads(line))
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(board._board())
    svg = console.export_svg(title="python -m nested.language train --preset nano")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # they are on the network
    write_whole(path, lambda temporary: temporary.write_text(svg, encoding="utf-8"))


def answer_seconds() -> float:
    """Start ``chat``, say something, and return the seconds until it has answered and left."""
    command = [sys.executable, "-m", "nested.language", "chat", "--tokens", "40"]
    started = time.perf_counter()
    subprocess.run(command, input="Good morrow!\n", text=True, check=True, capture_output=True)
    return time.perf_counter() - started


def bytes_a_second(model, coder) -> list[float]:
    """Write WRITTEN bytes anew, and as many after FAR bytes, at the speed of a recorded model."""
    reader, speeds = TokenReader(model), []
    text = torch.randint(97, 123, (1, FAR), generator=torch.Generator().manual_seed(0))
    far = None
    for part in text.split(SIZE, dim=1):
        far = reader(part, far)[1]
    for state in (None, None, far):  # the first one records the model
        generator = torch.Generator().manual_seed(0)
        settings = {"state": state, "temperature": 0.8, "top_p": 0.95, "generator": generator}
        started = time.perf_counter()
        "".join(written := generate(reader, coder, "\n", WRITTEN, **settings))
        speeds.append(len(written.tokens) / (time.perf_counter() - started))
    return speeds[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    if run:
        ship(run)
        draw_board(run, BOARD)
    path = SHIPPED / f"{NAME}.pt"
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    model, coder = load(NAME)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    with tempfile.TemporaryDirectory() as folder:
        held_out = prepare(["shakespeare"], Path(folder) / "text", show=lambda line: None).held_out
    bits = bits_per_byte(model, coder, even_pieces(held_out, PIECES, SIZE))
    print(f"{bits:.3f} bits a byte of {PIECES} held-out pieces of {SIZE} bytes")
    runs = [
        recall_facts(model, coder, FACTS, BYTES, torch.Generator().manual_seed(i))
        for i in range(RUNS)
    ]
    for way in runs[0]:
        shares = sorted(run[way] for run in runs)
        mean, low, high = sum(shares) / RUNS, shares[0], shares[-1]
        print(f"{FACTS} facts, {way:9} {mean:.2f} ({low:.2f} to {high:.2f})")
    torch.set_num_threads(1)
    near, far = bytes_a_second(model, coder)
    print(f"{near:.0f} bytes a second on one core, {far:.0f} after {FAR:,} bytes")
    print(f"chat has answered after {answer_seconds():.1f} s")


if __name__ == "__main__":
    main()
