"""Is anything lost when a training of a language model is killed?

    python -m tests.benchmarks.kill_training [KILLS]

A small training is killed (SIGKILL) at a random moment, 30 times by default. Each time it is
resumed to its end. Every number and every weight must be those of a training never killed. The
first difference ends the program with an error. It takes about fifteen minutes.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from nested.language.checkpoint import read_model
from nested.language.run import LAST, LOG

SIZES = "--dim 16 --layers 2 --heads 2 --chunk 8 --length 32 --text-length 400 --batch-size 4"
FLAGS = [*SIZES.split(), *"--steps 24 --mixer titans --facts 0.25 --keep 2".split()]
MEASURED = ("step", "loss", "norm", "rate", "bits", "mean_loss", "moved", "sample")


def start(folder, *more):
    command = [sys.executable, "-m", "nested.language", "train", *FLAGS, "--out", str(folder)]
    return subprocess.Popen(
        [*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, error = process.communicate()
    if process.returncode:
        sys.exit(f"a training failed: {error}")


def numbers(folder):
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{name: line[name] for name in MEASURED} for line in lines]


def weights(folder):
    return read_model(folder / LAST)[2]["model"]


def main(kills):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        finish(start(folder / "whole"))
        duration = time.monotonic() - began
        whole, wanted, moments = numbers(folder / "whole"), weights(folder / "whole"), []
        for kill in range(kills):
            killed, moment = folder / f"killed-{kill}", random.Random(kill).uniform(0, duration)
            process = start(killed)
            time.sleep(moment)
            process.kill()
            process.wait()
            is_saved = (killed / LAST).exists()
            step = read_model(killed / LAST)[2]["training"]["step"] if is_saved else 0
            moments.append(step)
            finish(start(killed, *["--resume"] * is_saved))
            ours = weights(killed)
            if numbers(killed) != whole or not all(torch.equal(ours[n], wanted[n]) for n in wanted):
                sys.exit(f"killed after {moment:.2f} s, it does not end as a training never killed")
            print(
                f"{kill + 1:>3}: killed after {moment:5.2f} s, step {step} saved: the same numbers"
            )
        inside = sum(0 < step < 24 for step in moments)
        print(f"{kills} kills, {inside} of them after the first save and before the last: ", end="")
        print("nothing lost")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
