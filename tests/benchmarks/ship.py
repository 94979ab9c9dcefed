"""Put the best model of a training into the package.   python -m tests.benchmarks.ship RUN

RUN is a folder that ``python -m nested.language train --out RUN`` wrote. The weights are saved in
half precision. Then the model is loaded again. The program prints its size, its bits a byte of
held-out plays, the facts that it recalls, and the seconds until ``chat`` has answered. The last
board of the training becomes examples/pictures/board.svg.
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

from nested.language import load, prepare
from nested.language.checkpoint import BEST, SHIPPED, read_model, save_model
from nested.language.dashboard import Dashboard
from nested.language.measures import bits_per_byte, even_pieces
from nested.language.recall import recall_facts
from nested.language.run import LOG
from nested.support.files import write_whole

BOARD = Path(__file__).parents[2] / "examples" / "pictures" / "board.svg"
PIECES, SIZE, FACTS, BYTES, RUNS = 64, 1024, 20, 2000, 9


def ship(run: Path, name: str = "nano") -> Path:
    """Save the best model of ``run`` as the shipped model ``name``. Returns its path."""
    config, coder, content = read_model(run / BEST)
    halves = {key: weight.half() for key, weight in content["model"].items()}
    path = SHIPPED / f"{name}.pt"
    path.parent.mkdir(exist_ok=True)
    save_model(path, config, coder, halves)
    return path


def draw_board(run: Path, path: Path) -> None:
    """Draw the board as it stood at the end of ``run``, by the fonts of the reader."""
    board = Dashboard("nano", io.StringIO())
    board.records = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    path = ship(run)
    draw_board(run, BOARD)
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    model, coder = load("nano")
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
    print(f"chat has answered after {answer_seconds():.1f} s")


if __name__ == "__main__":
    main()
