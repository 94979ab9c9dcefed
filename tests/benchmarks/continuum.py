"""Does continuum memory pay?   python -m tests.benchmarks.continuum [--jobs N] [--runs F] [...]

Each Hope is trained with its continuum memory, and with a plain net of one hidden layer in its
place. One such net has equally many parameters. Another takes as many floating-point operations
(FLOPs) in matrix products to train on 512 tokens. Texts state facts, key and value, and ask for
each after 64, 512 and 4,096 tokens. Until then, other facts and noise come. The first quarter of
the training has short texts, which ask after 16 tokens: without them nothing was learned in 500
steps. After that, one step in five uses all three gaps, and the others use one or two. Every step
reads about 4,096 tokens. All models train at one rate. Printed is the share of right answers in
unseen texts. What is in --runs is not run again, so delete that file after a change. ``--quick``
trains for 5 steps, and scores one batch.
"""

import argparse
import os
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from nested.models import Hope, ModelConfig  # noqa: E402
from nested.tasks.sequences import UNSCORED  # noqa: E402
from tests.benchmarks.jobs import (  # noqa: E402
    MEMORIES,
    add_arguments,
    count,
    finished_runs,
    fit,
    key_of,
    run_all,
)

GAPS = (64, 512, 4096)
SLOTS = 32  # of 4 tokens each, at a text's start: half of them state the facts that are asked for
KEYS, VALUES, NOISE = 32, 16, 8
ASK = KEYS + VALUES + NOISE  # the token before a key that is asked for
VOCAB = ASK + 1
SHORT_SLOTS, SHORT_GAP = (4, 8, 16), 16  # texts of the first quarter of the training, in turn
TAUGHT = (1, 2, 1, 2, 3)  # the number of gaps in texts after that, in turn
OTHERS = 0.25  # share of slots that state a fact nobody asks for
DIM, LAYERS, CHUNK, PERIODS = 48, 2, 32, (16, 64, 256)
TOKENS, STEPS, RATE, SEEDS, TESTS = 4096, 400, 3e-3, (0, 1, 2), 16  # tokens of a step
HOPES = {**MEMORIES, "attention": {"mixer": "attention"}}
FORMS = ("continuum", "net, equal parameters", "net, equal FLOPs")


def texts(generator, gaps=GAPS, slots=SLOTS, batch=None):
    """Tokens, targets and gaps (B, T). A slot has two tokens for a fact, two for a question."""
    batch = batch or max(1, TOKENS // (4 * slots + gaps[-1]))
    shape, facts = (batch, slots + gaps[-1] // 4), slots // 2
    keys = torch.rand(batch, KEYS, generator=generator).argsort(1)
    asked, others = keys.split([facts, KEYS - facts], dim=1)
    pick = torch.randint(others.shape[1], shape, generator=generator)
    fact_keys = others.gather(1, pick)
    values = torch.randint(VALUES, shape, generator=generator) + KEYS
    is_fact = torch.rand(shape, generator=generator) < OTHERS
    places = torch.rand(batch, slots, generator=generator).argsort(1)[:, :facts]
    fact_keys, is_fact = fact_keys.scatter(1, places, asked), is_fact.scatter(1, places, True)
    tokens = torch.randint(NOISE, (*shape, 4), generator=generator) + KEYS + VALUES
    tokens[..., :2] = torch.where(
        is_fact[..., None], torch.stack([fact_keys, values], -1), tokens[..., :2]
    )
    targets, gap_of = torch.full_like(tokens, UNSCORED), torch.zeros_like(tokens)
    rows = torch.arange(batch)[:, None]
    for gap in gaps:
        back = places + gap // 4
        tokens[rows, back, 2], tokens[rows, back, 3] = ASK, asked
        targets[rows, back, 3] = values.gather(1, places) - KEYS
        gap_of[rows, back, 3] = gap
    return tokens.flatten(1), targets.flatten(1), gap_of.flatten(1)


def texts_of_step(step, steps, generator):
    """Draw the texts of a training step."""
    if step <= steps // 4:
        return texts(generator, (SHORT_GAP,), SHORT_SLOTS[step % len(SHORT_SLOTS)])
    return texts(generator, GAPS[: TAUGHT[step % len(TAUGHT)]])


class Net(nn.Module):
    """y = x + W1 silu(W2 x), in place of a continuum memory; its state is empty."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def init(self, batch_size):
        return ()

    def forward(self, x, state=None, **masks):
        return x + self.down(nn.functional.silu(self.up(x))), ()


def build(mixer, form):
    model = make_hope(mixer, PERIODS)
    if form != "continuum":
        wanted, size = (flops, flops) if form == "net, equal FLOPs" else (count, count)
        per_unit = [size(with_nets(mixer, hidden)) for hidden in (8, 16)]
        slope = (per_unit[1] - per_unit[0]) / 8  # both grow linearly with the hidden units
        hidden = 8 + round((wanted(model) - per_unit[0]) / slope)
        model = with_nets(mixer, hidden)
    return model


def make_hope(mixer, periods):
    sizes = {"vocab": VOCAB, "dim": DIM, "layers": LAYERS, "heads": 1, "chunk": CHUNK}
    return Hope(ModelConfig(**sizes, periods=periods, **HOPES[mixer]))


def with_nets(mixer, hidden):
    model = make_hope(mixer, (1,))
    for block in model.blocks:
        block.continuum = Net(DIM, hidden)
    return model


def flops(model):
    """Of the matrix products of a forward and backward pass, over one text of 512 tokens."""
    tokens = torch.zeros(1, 512, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens)[0].sum().backward()
    return counter.get_total_flops()


def train(job):
    """{"shares": {gap: share right}, "parameters", "flops", "seconds"}"""
    mixer, form, seed, steps = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore", "texts of .* tokens end")  # the short ones, on purpose
    model, generator = build(mixer, form), torch.Generator().manual_seed(seed)
    sizes = {"parameters": count(model), "flops": flops(model)}
    optimizer, started = torch.optim.AdamW(model.parameters(), RATE), time.process_time()

    def loss_of(step):
        tokens, targets, _ = texts_of_step(step, steps, generator)
        logits = model(tokens)[0].flatten(0, 1)
        return nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=UNSCORED)

    *_, (_, loss) = fit(model, optimizer, RATE, steps, loss_of)
    seconds = time.process_time() - started
    shares = unseen(model, TESTS if steps == STEPS else 1)
    return {"shares": shares, "seconds": seconds, "loss": loss, **sizes}


@torch.no_grad()
def unseen(model, batches):
    generator, right = torch.Generator().manual_seed(7), {gap: [] for gap in GAPS}
    for _ in range(batches):
        tokens, targets, gap_of = texts(generator, batch=4)
        is_right = model(tokens)[0].argmax(-1) == targets
        for gap in GAPS:
            right[gap] += is_right[gap_of == gap].tolist()
    return {str(gap): statistics.mean(answers) for gap, answers in right.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 steps of one seed: does it run?")
    parser.add_argument("--mixers", nargs="+", choices=HOPES, default=list(HOPES))
    add_arguments(parser)
    args = parser.parse_args()
    known = finished_runs(parser, args.runs)
    seeds, steps = (SEEDS[:1], 5) if args.quick else (SEEDS, STEPS)
    jobs = [(m, f, seed, steps) for seed in seeds for m in args.mixers for f in FORMS]
    with ProcessPoolExecutor(args.jobs) as pool:
        run_all(pool, train, jobs, known, args.runs, lambda job, result: result["shares"])
    print(f"\nright answers after {', '.join(map(str, GAPS))} tokens, chance {1 / VALUES:.3f}")
    for mixer in args.mixers:
        for form in FORMS:
            runs = [known[key_of((mixer, form, seed, steps))] for seed in seeds]
            parts = []
            for gap in GAPS:
                shares = [run["shares"][str(gap)] for run in runs]
                parts.append(
                    f"{statistics.mean(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"
                )
            size = f"{runs[0]['parameters']:,} parameters, {runs[0]['flops'] / 1e6:,.0f} MFLOPs"
            seconds = statistics.mean(run["seconds"] for run in runs)
            print(f"  {mixer:<15} {form:<22} {'  '.join(parts)}   {size}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
