"""Language models of one size: same tokens, same minutes.  python -m tests.benchmarks.mixers [...]

Each mixer of ``python -m nested.language train`` gets the width at which it has as many parameters
as the preset nano. It trains by nano's settings, without texts of facts, at the best of four rates
on prose, by another seed. Once all read the same number of tokens. Once all train for the same
minutes of one core. The number of steps then follows from speeds that are measured side by side.
Data are Shakespeare's plays ("prose") and Python's standard library ("code"). There are three
seeds.

Bits a byte are of held-out text, in windows of 256 bytes for all. Memories are measured on 1,024
bytes, too: they were trained to read on. After the runs of the same tokens each model reads 32
texts of 8,192 bytes, and its bits are shown by position. Texts differ more than positions do. So
the bytes of the second half are measured once more, each after 512 to 1,024 bytes only. What is in
--runs is not run again. --quick runs a few steps of one seed.
"""

import argparse
import ctypes
import os
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402

from nested.language.config import PRESETS, TRANSFORMER  # noqa: E402
from nested.language.evaluate import EDGES  # noqa: E402
from nested.language.measures import (  # noqa: E402
    bits_of_bytes,
    bits_per_byte,
    even_pieces,
    token_losses,
)
from nested.language.text import Text, prepare  # noqa: E402
from nested.language.training import Training  # noqa: E402
from tests.benchmarks.jobs import add_arguments, finished_runs, key_of, run_all  # noqa: E402

MIXERS = ("linear", "titans", "selfmod", "attention", TRANSFORMER)
DATA = {"prose": "shakespeare", "code": "stdlib"}
STEPS, MINUTES, ROUNDS = 200, 3.0, 8
WINDOW, LONG, PIECES = 256, 1024, 64  # tokens of a measured piece, and how many of LONG
LONG_TEXTS, BEFORE = 32, 512
KINDS = ("tokens", "minutes")
RATES, TUNING_SEED = (0.003, 0.006, 0.012, 0.024), 10
texts = {}  # {name of data: Text}, in each process


def settings_of(mixer, **settings):
    """Return nano's settings for ``mixer``, at the width that gives it nano's parameters."""
    wanted = count(PRESETS["nano"].build(259))

    def distance(dim):
        return abs(count(replace(PRESETS["nano"], mixer=mixer, dim=dim).build(259)) - wanted)

    dim = min(range(80, 241, 8), key=distance)
    return replace(PRESETS["nano"], mixer=mixer, facts=0.0, dim=dim, **settings)


def count(model):
    return sum(p.numel() for p in model.parameters())


def open_texts(folder):
    torch.set_num_threads(1)
    texts.update({name: Text(Path(folder) / name) for name in DATA})


def train(job):
    """Train one model. ``job`` is (data, mixer, "rate", "tokens" or "minutes", steps, rate, seed);
    or measure all speeds, for ("speed", rounds)."""
    if job[0] == "speed":
        return speeds(job[1])
    data, mixer, kind, steps, rate, seed = job
    text, config = texts[data], settings_of(mixer, lr=rate, seed=seed)
    ctypes.CDLL(None).malloc_trim(0)  # what the last run has freed
    with open("/proc/self/clear_refs", "w") as file:  # a new peak of memory
        file.write("5")
    training = Training(config, text, steps)
    while training.step < steps:
        training.take_step()
    memory = peak_memory()
    is_quick = steps < 10
    pieces = even_pieces(text.held_out, 1 if is_quick else PIECES, LONG)
    short = pieces[:, :-1].reshape(-1, WINDOW)
    model = training.model.eval()
    bits = {str(WINDOW): bits_per_byte(model, text.coder, short)}
    if config.is_carried:
        bits[str(LONG)] = bits_per_byte(model, text.coder, pieces)
    result = {"bits": bits, "steps": steps, "parameters": count(model), "memory": memory}
    if kind == "tokens":
        texts_read = even_pieces(text.held_out, 1 if is_quick else LONG_TEXTS, EDGES[-1])
        result["by position"] = by_position(model, text.coder, texts_read)
    return result


def by_position(model, coder, pieces):
    """Bits a byte between ``EDGES`` of ``pieces`` (B, T + 1); and of the bytes at 4,096 to 8,192
    once more, when only 512 to 1,024 bytes are read before them."""
    losses, targets = token_losses(model, pieces), pieces[:, 1:]
    bits = {
        f"{a} to {b}": bits_of_bytes(losses[:, a:b], coder, targets[:, a:b])
        for a, b in zip(EDGES, EDGES[1:])
    }
    half = EDGES[-1] // 2
    again = pieces[:, half - BEFORE :].unfold(1, 2 * BEFORE + 1, BEFORE).flatten(0, 1)
    losses = token_losses(model, again)[:, BEFORE:]
    bits["the last half after 512 bytes"] = bits_of_bytes(losses, coder, again[:, BEFORE + 1 :])
    return bits


def speeds(rounds):
    """Measure tokens a second of CPU time in training: {mixer: the best of ``rounds``}."""
    trainings, best = {}, dict.fromkeys(MIXERS, 0.0)
    for mixer in MIXERS:
        trainings[mixer] = Training(settings_of(mixer), texts["prose"], rounds + 1)
        trainings[mixer].take_step()
    for _ in range(rounds):
        for mixer, training in trainings.items():
            started = time.process_time()
            training.take_step()
            seconds = time.process_time() - started
            tokens = training.config.batch_size * training.config.length
            best[mixer] = max(best[mixer], tokens / seconds)
    return best


def peak_memory():
    """The peak of this process in MiB, since it was last cleared."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def describe(job, result):
    return " ".join(f"{bits:.3f} ({window})" for window, bits in result["bits"].items())


def show(jobs, known, seeds, fast):
    for data, mixer, kind, steps, rate in dict.fromkeys(job[:5] for job in jobs):
        results = [known[key_of((data, mixer, kind, steps, rate, seed))] for seed in seeds]
        line = f"{data}, the same {kind}, {mixer:12}"
        for window in results[0]["bits"]:
            each = [result["bits"][window] for result in results]
            values = " ".join(f"{bits:.3f}" for bits in each)
            line += f"  {window}: {statistics.mean(each):.3f} ({values})"
        print(
            f"{line}  {steps} steps at {rate}, {fast[mixer]:,.0f} tokens/s,"
            f" {results[-1]['memory']:,.0f} MiB, {results[0]['parameters']:,} parameters"
        )
        for span in results[0].get("by position", ()):
            each = [result["by position"][span] for result in results]
            values = " ".join(f"{bits:.3f}" for bits in each)
            print(f"    {span:>30}: {statistics.mean(each):.3f} ({values})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run?")
    parser.add_argument("--mixers", nargs="+", choices=MIXERS, default=MIXERS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    add_arguments(parser)
    args = parser.parse_args()
    known = finished_runs(parser, args.runs)
    seeds = (0,) if args.quick else args.seeds
    with tempfile.TemporaryDirectory() as folder:
        for name, source in DATA.items():
            prepare([source], Path(folder) / name, show=lambda line: None)
        measure = ("speed", 1 if args.quick else ROUNDS)
        with ProcessPoolExecutor(1, initializer=open_texts, initargs=(folder,)) as pool:
            run_all(pool, train, [measure], known, args.runs, lambda job, result: result)
        fast, seconds = known[key_of(measure)], 60 * (0.01 if args.quick else MINUTES)
        batch = PRESETS["nano"].batch_size * PRESETS["nano"].length
        steps = {
            "tokens": dict.fromkeys(args.mixers, 2 if args.quick else STEPS),
            "minutes": {m: max(1, round(seconds * fast[m] / batch)) for m in args.mixers},
        }
        rates = RATES[:1] if args.quick else RATES
        tuning = {
            m: [("prose", m, "rate", steps["tokens"][m], rate, TUNING_SEED) for rate in rates]
            for m in args.mixers
        }
        with ProcessPoolExecutor(args.jobs, initializer=open_texts, initargs=(folder,)) as pool:
            jobs = [job for listed in tuning.values() for job in listed]
            run_all(pool, train, jobs, known, args.runs, describe)
            best = {
                m: min(listed, key=lambda job: known[key_of(job)]["bits"][str(WINDOW)])[4]
                for m, listed in tuning.items()
            }
            jobs = [
                (data, mixer, kind, steps[kind][mixer], best[mixer], seed)
                for kind in args.kinds
                for seed in seeds
                for data in DATA
                for mixer in args.mixers
            ]
            run_all(pool, train, jobs, known, args.runs, describe)
    for job in (job for listed in tuning.values() for job in listed):
        print(f"tuning, {job[1]:12} at {job[4]}: {describe(job, known[key_of(job)])}")
    show(jobs, known, seeds, fast)


if __name__ == "__main__":
    main()
