"""Many training runs: several at once, each saved when it ends, and none made twice."""

import argparse
import json
import math
import time
from concurrent.futures import as_completed
from pathlib import Path

from torch import nn

from nested.support.files import prepare_folder, save_json

MEMORIES = {  # the settings of a Hope, by the names in tables
    "dot product": {"mixer": "linear", "objective": "dot"},
    "delta rule": {"mixer": "linear"},
    "Titans": {"mixer": "titans"},
    "self-modifying": {"mixer": "selfmod"},
}


def add_arguments(parser):
    """Add --jobs and --runs."""
    parser.add_argument("--jobs", type=number_of_jobs, default=1, help="runs at once, 1 to 64")
    parser.add_argument("--runs", type=Path, help="a file of finished runs, to go on from")


def number_of_jobs(text):
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to 64, but got {text!r}")
    return int(text)


def finished_runs(parser, path):
    """{key: result} from the file at ``path``, if any; ends the program if it cannot be one."""
    try:
        if path:
            prepare_folder(path.parent)  # before hours of work, not after
        known = json.loads(path.read_text()) if path else {}
        if isinstance(known, dict) and all(isinstance(v, (dict, list)) for v in known.values()):
            return known
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        parser.error(f"--runs {path}: {error}")
    parser.error(f"--runs {path} is no file of runs")


def run_all(pool, train, jobs, known, path, describe):
    """Let ``train`` take each job that is not ``known`` yet; say and save each, with time left."""
    new = [job for job in dict.fromkeys(jobs) if key_of(job) not in known]
    started = time.monotonic()
    runs = {pool.submit(train, job): job for job in new}
    for done, run in enumerate(as_completed(runs), start=1):
        job, result = runs[run], run.result()
        known[key_of(job)] = result
        left = (time.monotonic() - started) / done * (len(new) - done)
        line = f"  {done}/{len(new)}, {left / 60:.0f} min left  {job}: {describe(job, result)}"
        print(line, flush=True)
        if path:
            save_json(path, known)


def key_of(job):
    return json.dumps(job)


def fit(model, optimizer, rate, steps, loss_of, warm_up=50):
    """Train ``model`` with a warm-up, a cosine to 0 and clipped gradients, and yield after each
    step (its number from 1, its loss). ``loss_of(step)`` computes the loss."""
    for step in range(1, steps + 1):
        left = 0.5 + 0.5 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / warm_up) * left
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield step, loss.item()


def count(model):
    """The number of parameters that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
