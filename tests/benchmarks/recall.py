"""What memories buy.   python -m tests.benchmarks.recall [--variants] [--jobs N] [--runs F] ...

Whole models of equally many parameters learn from equally many texts. They recall values by their
keys, and values that have changed half-way. Texts of 2, 4 and 8 pairs come in turn. With texts of 8
alone, one of three self-modifying Titans learned nothing. Accuracy is counted on unseen texts of 8.
Each model is trained on changing keys from three seeds at each of two learning rates, and at the
better one on recall.

With --variants, two more of self-modifying Titans learn changing keys at its rate. One is the
paper's, with no maps for keys and values (S = I). One reads by the weights of its chunk's start.

It takes three hours on one core, and half of it on two (--jobs 2). Variants take 40 minutes more.
What is in --runs is not run again, so delete that file after a change. The program exits non-zero
unless, on changing keys, Titans and self-modifying Titans reach 0.95 with every seed, and the delta
rule at its worst makes under half of the dot product's fewest mistakes.
"""

import argparse
import math
import os
import statistics
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402

from nested.models import Hope, ModelConfig, Transformer  # noqa: E402
from nested.support.files import prepare_folder  # noqa: E402
from nested.support.plots import COLOURS, new_figure, save_figure  # noqa: E402
from nested.tasks import AssociativeRecall, ChangingKeys  # noqa: E402
from nested.tasks.text_task import scores  # noqa: E402
from tests.benchmarks.jobs import (  # noqa: E402
    MEMORIES,
    add_arguments,
    count,
    finished_runs,
    fit,
    key_of,
    run_all,
)

SYMBOLS, BATCH, LAYERS, CHUNK = 32, 32, 2, 8
PERIODS = (256,)  # longer than a text: the continuum is a plain net here, for all the same
PARAMETERS = 100_000  # each model is as wide as comes nearest
RATES, SEEDS, LEAST = (3e-3, 1e-2), (0, 1, 2), 0.95
CHANGES = {2: 2, 4: 4, 8: 6}  # by pairs of a text: how often half of its keys come again
FAMILIES = {
    "recall": AssociativeRecall,
    "changing keys": lambda pairs, **sizes: ChangingKeys(pairs, changes=CHANGES[pairs], **sizes),
}
PRINTED, AT_START = "self-modifying, S = I", "self-mod., reads start"
MODELS = {
    "Transformer": {},
    **MEMORIES,
    PRINTED: {"mixer": "selfmod"},
    AT_START: {"mixer": "selfmod"},
}
VARIANTS = (PRINTED, AT_START)


def build(name, width, vocab):
    kind = Transformer if name == "Transformer" else Hope
    sizes = {"vocab": vocab, "dim": width, "layers": LAYERS, "heads": 1}
    model = kind(ModelConfig(**sizes, chunk=CHUNK, periods=PERIODS, **MODELS[name]))
    for block in model.blocks:
        if name == PRINTED:
            for skip in (block.mixer.skip_key, block.mixer.skip_value):
                skip.requires_grad_(False)
                skip.weight.copy_(torch.eye(width))
        if name == AT_START:
            block.mixer.reads = "start"
    return model


def size_of(name, width):
    return count(build(name, width, 2 * SYMBOLS))


def width_of(name):
    return min(range(16, 129, 2), key=lambda width: abs(size_of(name, width) - PARAMETERS))


def train(job):
    """(accuracy on 1,024 unseen texts, its course) of one model on one family at one rate."""
    name, family_name, rate, seed, steps = job
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "texts of .* tokens end")  # before the continuum moves
    width = width_of(name)
    tasks = []
    for pairs in CHANGES:  # the same symbols for all: of one seed
        family = FAMILIES[family_name](
            pairs,
            symbols=SYMBOLS,
            batch_size=BATCH,
            make_model=lambda vocab: build(name, width, vocab),
        )
        generator = torch.Generator().manual_seed(seed)
        tasks.append(family.sample(generator))
    task, model = tasks[-1], family.model
    model.load_state_dict(task.init(generator))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    course = []

    def loss_of(step):
        symbols, answers = tasks[step % len(tasks)].batch(generator)
        logits, _ = model(symbols)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())

    for step, _ in fit(model, optimizer, rate, steps, loss_of):
        if step % max(20, steps // 20) == 0 or step == steps:
            course.append((step, unseen(model, task, 4)))
    return unseen(model, task, 32 if steps > 10 else 1), course


@torch.no_grad()
def unseen(model, task, batches):
    generator, shares = torch.Generator().manual_seed(7), []
    for _ in range(batches):
        symbols, answers = task.batch(generator, "query")
        shares.append(scores(model(symbols)[0], answers)["accuracy"])
    return statistics.mean(shares)


def describe(job, result):
    return f"{result[0]:.3f}"


def measure(args, steps, known, variants, seeds):
    """{family: {model: {"rate", "accuracy": [one for each seed], "course"}}}"""

    def runs(model, family, rate):
        return [(model, family, rate, seed, steps) for seed in seeds]

    def mean(model, rate):
        return statistics.mean(known[key_of(job)][0] for job in runs(model, hardest, rate))

    easiest, hardest = FAMILIES
    named = [m for m in MODELS if m not in VARIANTS]
    with ProcessPoolExecutor(args.jobs) as pool:
        todo = [runs(m, hardest, rate) for m in named for rate in RATES]
        run_all(pool, train, sum(todo, []), known, args.runs, describe)
        best = {m: max(RATES, key=partial(mean, m)) for m in named}
        best |= dict.fromkeys(variants, best["self-modifying"])
        todo = [runs(m, easiest, best[m]) for m in named]
        todo += [runs(m, hardest, best[m]) for m in variants]
        run_all(pool, train, sum(todo, []), known, args.runs, describe)
    return {
        f: {
            m: {
                "rate": best[m],
                "other": min(mean(m, rate) for rate in RATES) if m in named else math.nan,
                "width": width_of(m),
                "parameters": size_of(m, width_of(m)),
                "accuracy": [known[key_of(job)][0] for job in runs(m, f, best[m])],
                "course": [known[key_of(job)][1] for job in runs(m, f, best[m])],
            }
            for m in (named if f == easiest else [*named, *variants])
        }
        for f in FAMILIES
    }


def draw(found, path):
    figure, (panels,) = new_figure(1, len(found))
    for panel, (family, models) in zip(panels, found.items()):
        for colour, (name, result) in zip(COLOURS, models.items()):
            for number, course in enumerate(result["course"]):
                steps, shares = zip(*course)
                label = name if number == 0 else None
                panel.plot(steps, shares, color=colour, label=label, alpha=0.8)
        panel.axhline(1 / SYMBOLS, color="black", linestyle=":")
        panel.set_title(family, fontsize=9)
        panel.set(xlabel="training steps, 32 texts each", ylim=(0, 1.02))
    panels[0].set(ylabel="right answers (dotted: by chance)")
    panels[-1].legend(fontsize=7)
    figure.suptitle("Memories that correct what they hold learn changing keys first", fontsize=11)
    save_figure(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 steps, one seed: does it run?")
    parser.add_argument("--variants", action="store_true", help="two more: S = I, reads start")
    add_arguments(parser)
    parser.add_argument("--png", type=Path, default=Path("runs/recall.png"))
    args = parser.parse_args()
    known = finished_runs(parser, args.runs)
    try:
        prepare_folder(args.png.parent)  # before an hour of work, not after
    except ValueError as error:
        parser.error(error)
    variants = VARIANTS if args.variants else ()
    steps, seeds = (10, SEEDS[:1]) if args.quick else (1500, SEEDS)
    found = measure(args, steps, known, variants, seeds)
    for family, models in found.items():
        print(f"\n{family}: of {SYMBOLS} keys and values, chance {1 / SYMBOLS:.3f}")
        print(f"{'':23}mean   each seed            rate    width  parameters  changing, other rate")
        for name, result in models.items():
            each = "  ".join(f"{share:.3f}" for share in result["accuracy"])
            mean = statistics.mean(result["accuracy"])
            line = f"{name:22}{mean:6.3f}   {each}   {result['rate']:7.0e}{result['width']:7}"
            print(f"{line}{result['parameters']:12,}{result['other']:10.3f}")
    draw(found, args.png)
    *_, (family, models) = found.items()
    delta, dot = min(models["delta rule"]["accuracy"]), max(models["dot product"]["accuracy"])
    print(f"\n{family}: delta rule at worst {delta:.3f}, dot product at best {dot:.3f}")
    deep = min(min(models[name]["accuracy"]) for name in ("Titans", "self-modifying"))
    print(f"Titans and self-modifying Titans at worst {deep:.3f}, of {LEAST} at least")
    sys.exit(not args.quick and (1 - delta >= (1 - dot) / 2 or deep < LEAST))


if __name__ == "__main__":
    main()
