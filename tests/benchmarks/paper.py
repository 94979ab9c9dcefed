"""State tracking, recall and compression, by nine models.   python -m tests.benchmarks.paper [...]

Every task of ``nested.tasks.TASKS`` is learned by models of about as many parameters, from equally
many tokens. Each model is tuned alike. Three settings of rate and weight decay are tried in turn
with half of the steps, and with a seed that is not used again. A setting that is right everywhere
ends the search. The one with the best mean score is trained with three seeds.

Memories have one head, attention two. On S3, A5 and sums mod 5 three models make two writes a
token: the delta rule, "dot, then delta" and self-modifying Titans. The latter read 16 tokens at a
time, so that their rules move within a text of training. In texts of 32 tokens (compression,
memorisation) they move once. The continuum memory moves in no text of this table: its period is
longer. Selective copying is smaller than in MAD.

Scores are on texts of 1, 2, 4 and 8 times the training length. Training never sees longer texts.
Tuning has texts of these lengths, too, drawn apart. It also has texts of 16 times the length, which
tell settings apart where all else is right. MAD is tuned at the training length alone. A language
has few strings of one length: training, tuning and scores share many. Languages count whole
strings, and other tasks count answers.

What is in --runs is not run again, so delete that file after a change. The runs of the table are
in paper_runs.json beside this file. ``--quick`` runs one setting and one seed for 30 steps each.
The whole table takes hours; --tasks and --models choose. The program exits non-zero when a bound of
BOUNDS is broken.
"""

import argparse
import math
import os
import statistics
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from nested.models import Hope, ModelConfig, Transformer, decay_groups  # noqa: E402
from nested.support.files import prepare_folder  # noqa: E402
from nested.support.plots import TEXT_SIZE, new_figure, save_figure  # noqa: E402
from nested.tasks import TASKS  # noqa: E402
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

PARAMETERS, LAYERS, BATCH, CHUNK = 40_000, 2, 32, 32
SHORT_CHUNK = 16  # of self-modifying Titans: in training, too, their rules move within a text
PERIODS = (4096,)  # longer than every text: the continuum is a plain net, for all the same
SEEDS, SETTINGS = (0, 1, 2), ((1e-2, 1.0), (3e-3, 0.01), (3e-3, 1.0))  # (rate, weight decay)
STEPS = {"languages": 1500, "groups": 1500, "mad": 600}
TEXTS, QUICK = 256, 30  # texts of a score; steps of --quick, whose scores are of one batch
TIMES, TUNING_TIMES = (1, 2, 4, 8), (1, 2, 4, 8, 16)  # the training length
TUNING_SEED = 3
EPSILON = 1e-6  # at Adam's 1e-8, a model that is right goes on with full steps along noise
TITLES = {"languages": "Formal languages", "groups": "Word problems of groups", "mad": "MAD"}
SCORE = {"languages": "whole", "groups": "accuracy", "mad": "accuracy"}
WRITES = {"S3": 2, "A5": 2, "sums mod 5": 2}  # a token: these states turn, by two reflections
SMALLER = {"selective copying": {"length": 64, "copies": 8}}  # in MAD 256 and 16
RECURRENT = ("dot product", "delta rule", "dot, then delta", "Titans", "self-modifying")
BOUNDS = [  # (task, models, training lengths, share): one of the models reaches it on every seed
    *((task, ["delta rule"], "8", 1.0) for task in ("parity", "(aa)*", "(abab)*")),
    *((task, RECURRENT, "2", 0.95) for task in ("a^n b^n", "a^n b^n c^n", "shuffle-2")),
    ("S3", RECURRENT, "4", 0.99),
    ("parity", ["LSTM"], "1", 0.99),
]
GROUP_OF = {name: group for group, tasks in TASKS.items() for name in tasks}


class Recurrent(nn.Module):
    """An embedding, a recurrent net of ``torch.nn`` and a head: a model as ``Hope`` is one."""

    def __init__(self, kind, vocab, dim):
        super().__init__()
        self.embed, self.net = nn.Embedding(vocab, dim), kind(dim, dim, LAYERS, batch_first=True)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab)

    def forward(self, tokens, state=None):
        x, state = self.net(self.embed(tokens), state)
        return self.head(self.norm(x)), state


MIXED, ATTENTION = "dot, then delta", "Hope-attention"
HOPES = {
    **{name: MEMORIES[name] for name in ("dot product", "delta rule")},
    MIXED: {"mixer": "linear", "objective": ("dot", "l2")},  # of the two blocks
    **{name: MEMORIES[name] for name in ("Titans", "self-modifying")},
    ATTENTION: {"mixer": "attention"},
}
MODELS = ["Transformer", *HOPES, "GRU", "LSTM"]


def build(name, task, vocab):
    """Build the model ``name`` with as near to PARAMETERS parameters as its width allows."""
    widths = range(8, 97, 2 * heads_of(name))
    models = [build_wide(name, task, vocab, width) for width in widths]
    return min(models, key=lambda model: abs(count(model) - PARAMETERS))


def build_wide(name, task, vocab, width):
    if name in ("GRU", "LSTM"):
        return Recurrent(getattr(nn, name), vocab, width)
    chunk = SHORT_CHUNK if name == "self-modifying" else CHUNK
    sizes = {"vocab": vocab, "dim": width, "layers": LAYERS, "chunk": chunk, "periods": PERIODS}
    sizes |= {"heads": heads_of(name), "products": products_of(name, task)}
    kind = Transformer if name == "Transformer" else Hope
    return kind(ModelConfig(**sizes, **HOPES.get(name, {})))


def heads_of(name):
    return 2 if name in ("Transformer", ATTENTION) else 1


def products_of(name, task):
    can = ("delta rule", MIXED, "self-modifying")
    return WRITES.get(task, 1) if name in can else 1


def make_task(name):
    return TASKS[GROUP_OF[name]][name](batch_size=BATCH, **SMALLER.get(name, {}))


def train(job):
    """{"scores": {times: shares}, "loss", "seconds", "parameters"} of one model on one task."""
    task_name, name, (rate, decay), seed, steps = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore", "texts of .* tokens end")  # before the continuum moves
    started, task = time.process_time(), make_task(task_name)
    model = task.new_model(lambda vocab: build(name, task_name, vocab))
    optimizer = torch.optim.AdamW(decay_groups(model, decay), rate, eps=EPSILON)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(step):
        tokens, targets = task.batch(generator)
        return nn.functional.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())

    *_, (_, loss) = fit(model, optimizer, rate, steps, loss_of)
    seconds = time.process_time() - started
    loss = loss if math.isfinite(loss) else None  # JSON has no NaN
    texts = TEXTS if steps > QUICK else BATCH
    results = {
        "scores": unseen(model, task, task_name, seed, texts),
        "loss": loss,
        "seconds": seconds,
    }
    return {**results, "parameters": count(model)}


@torch.no_grad()
def unseen(model, task, name, seed, texts):
    """{times the training length: {score: share right}}"""
    shares = {}
    lengths, text_seed = (TUNING_TIMES, 8) if seed == TUNING_SEED else (TIMES, 7)
    if seed == TUNING_SEED and GROUP_OF[name] == "mad":
        lengths = TUNING_TIMES[:1]  # MAD's own score
    for times in lengths:
        generator = torch.Generator().manual_seed(text_seed)
        results = []
        for _ in range(texts // BATCH):
            tokens, targets = task.batch(generator, "query", times * task.length)
            results.append(scores(model(tokens)[0], targets))
        shares[str(times)] = {key: statistics.mean(r[key] for r in results) for key in results[0]}
    return shares


def describe(job, result):
    return "  ".join(f"{times}x {share:.3f}" for times, share in scored_shares(job[0], result))


def scored_shares(task, result):
    return [(times, one[SCORE[GROUP_OF[task]]]) for times, one in result["scores"].items()]


def measure(args, known):
    """{task: {model: {"setting", "parameters", "seconds", "shares", "last"}}}, where "shares" and
    "last" (the last answer of a text) are {times: [one for each seed]}."""
    settings, seeds = (SETTINGS[:1], SEEDS[:1]) if args.quick else (SETTINGS, SEEDS)
    steps = {t: QUICK if args.quick else STEPS[GROUP_OF[t]] for t in args.tasks}
    pairs = [(task, model) for task in args.tasks for model in args.models]

    def trial(task, model, setting):
        return task, model, setting, TUNING_SEED, steps[task] // 2

    def rank(task, model, setting):
        result = known[key_of(trial(task, model, setting))]
        share = statistics.mean(share for _, share in scored_shares(task, result))
        return share, -math.inf if result["loss"] is None else -result["loss"]

    def job(task, model, seed):
        return task, model, best[task, model], seed, steps[task]

    with ProcessPoolExecutor(args.jobs) as pool:
        open_pairs, best = pairs, {}
        for tried, setting in enumerate(settings, start=1):
            trials = [trial(t, m, setting) for t, m in open_pairs]
            run_all(pool, train, trials, known, args.runs, describe)
            for t, m in open_pairs:
                best[t, m] = max(settings[:tried], key=lambda s: rank(t, m, s))
            open_pairs = [(t, m) for t, m in open_pairs if rank(t, m, best[t, m])[0] < 1]
        jobs = [job(t, m, seed) for t, m in pairs for seed in seeds]
        run_all(pool, train, jobs, known, args.runs, describe)
    table = {}
    for t, m in pairs:
        results = [known[key_of(job(t, m, seed))] for seed in seeds]
        shares, last = {}, {}
        for result in results:
            for times, share in scored_shares(t, result):
                shares.setdefault(times, []).append(share)
                last.setdefault(times, []).append(result["scores"][times]["last"])
        seconds = statistics.mean(result["seconds"] for result in results)
        row = {"setting": best[t, m], "parameters": results[0]["parameters"], "seconds": seconds}
        table.setdefault(t, {})[m] = {**row, "shares": shares, "last": last}
    return table


def broken(table):
    """What should hold and does not: a sentence each."""
    sentences = []
    for task, models, times, least in BOUNDS:
        rows = {m: table[task][m]["shares"][times] for m in models if m in table.get(task, {})}
        worst = {model: min(shares) for model, shares in rows.items()}
        if worst and max(worst.values()) < least:
            sentences.append(f"{task} at {times}x: at worst {worst}, and one should be {least}")
    return sentences


def show(table):
    for task, models in table.items():
        problem, group = make_task(task), GROUP_OF[task]
        of = "whole strings" if group == "languages" else f"answers, chance {problem.chance:.3f}"
        print(f"\n{task}, {problem.length} tokens: {of}")
        for name, row in models.items():
            line = "  ".join(
                f"{times}x {statistics.mean(s):.3f} ({min(s):.3f} to {max(s):.3f})"
                for times, s in row["shares"].items()
            )
            if group == "groups":  # the mean over a text hides where a state is lost
                line += f"  last {statistics.mean(row['last'][str(TIMES[-1])]):.3f}"
            rate, decay = row["setting"]
            size = f"{row['parameters']:,} parameters, writes a token: {products_of(name, task)}"
            setting = f"rate {rate:g}, decay {decay:g}, {row['seconds']:.0f} s"
            print(f"  {name:<15} {line}   {size}, {setting}")
    mad = [task for task in table if GROUP_OF[task] == "mad"]
    for name in dict.fromkeys(name for task in mad for name in table[task]):
        means = [statistics.mean(table[task][name]["shares"]["1"]) for task in mad]
        print(f"mean of {len(mad)} MAD tasks  {name:<15} {statistics.mean(means):.3f}")


def draw(table, folder):
    """A picture for each group: a panel a task, a row a model, and a column a length of texts."""
    for group in dict.fromkeys(GROUP_OF[task] for task in table):
        tasks = [task for task in table if GROUP_OF[task] == group]
        names = list(table[tasks[0]])
        figure, (panels,) = new_figure(1, len(tasks), width=2.1, height=0.5 + 0.32 * len(names))
        everything = {name: [] for name in names}
        for task, panel in zip(tasks, panels):
            rows = [mean_shares(table[task][name]) for name in names]
            for name, row in zip(names, rows):
                everything[name] += row
            draw_shares(panel, rows)
            panel.set_title(task, fontsize=TEXT_SIZE)
            lengths = [f"{times}x" for times in table[task][names[0]]["shares"]]
            panel.set_xticks(range(len(lengths)), lengths, fontsize=TEXT_SIZE)
            panel.set_yticks(range(len(names)), names, fontsize=TEXT_SIZE)
            if panel is not panels[0]:
                panel.set_yticks([])
        best = max(names, key=lambda name: statistics.mean(everything[name]))
        what = "whole strings" if SCORE[group] == "whole" else "answers"
        share = statistics.mean(everything[best])
        figure.suptitle(
            f'{TITLES[group]}: "{best}" is best, with {share:.2f} of {what} right over all lengths',
            fontsize=TEXT_SIZE + 2,
        )
        label = "length of a text, in training lengths; means of the seeds"
        figure.supxlabel(label, fontsize=TEXT_SIZE)
        save_figure(figure, folder / f"paper_{group}.png")


def mean_shares(row):
    return [statistics.mean(shares) for shares in row["shares"].values()]


def draw_shares(panel, rows):
    """A table of shares: the darker, the more is right."""
    panel.imshow(rows, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for y, row in enumerate(rows):
        for x, share in enumerate(row):
            colour = "white" if share > 0.7 else "black"
            panel.text(x, y, rounded(share), ha="center", va="center", color=colour, fontsize=8)


def rounded(share):
    """Two digits; 0 and 1 are exact."""
    if share in (0, 1):
        return f"{share:.0f}"
    text = f"{share:.2f}"
    return {"0.00": "0.01-", "1.00": "0.99+"}.get(text, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 steps: does it run?")
    parser.add_argument("--tasks", nargs="+", choices=list(GROUP_OF), default=list(GROUP_OF))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the pictures")
    args = parser.parse_args()
    known = finished_runs(parser, args.runs)
    try:
        prepare_folder(args.out)
    except ValueError as error:
        parser.error(error)
    table = measure(args, known)
    show(table)
    draw(table, args.out)
    sentences = [] if args.quick else broken(table)
    print(f"\nbounds broken: {'; '.join(sentences) or 'none'}")
    sys.exit(bool(sentences))


if __name__ == "__main__":
    main()
