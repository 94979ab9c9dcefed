"""How good is a learned rule?   python -m tests.benchmarks.rules [--rule default | FILE]

Races it on held-out digits for 20, 100 and 500 steps, and for 100 steps on families that no rule
was taught on, against six optimizers tuned for each family and horizon; then 200 runs of 2,000
steps. Speed-ups are steps of the baseline over steps needed to its final smoothed loss, with
bootstrap intervals over 64 tasks. Exits non-zero when a bound is broken. Ten minutes.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402
from torch import Generator  # noqa: E402

from nested import race, unroll_tasks  # noqa: E402
from nested.meta.baselines import draw_tasks  # noqa: E402
from nested.meta.objective import scored_losses  # noqa: E402
from nested.meta.speed_up import final_loss, speed_up  # noqa: E402
from nested.meta.tuned import TUNED  # noqa: E402
from nested.rules import load_rule  # noqa: E402
from nested.rules.train import transfer  # noqa: E402
from nested.tasks import Digits  # noqa: E402

RULE, CHASED = "the rule", "Adam"
LEAST = {20: 2.0, 100: 1.2}  # speed-up on held-out digits
TRANSFERRED = ("4 x wider", "two layers deeper", "convolution", "glyphs", "regression")
RUNS, LONG = 200, 2000


def show(title, rule, family, horizon, sizes):
    started = time.monotonic()
    result = race({RULE: rule}, family, horizon, baselines=TUNED, tuned_for=0.05, **sizes)
    best = min(TUNED, key=lambda name: final_loss(result, name))
    found = speed_up(result, RULE, CHASED)
    against = speed_up(result, RULE, best)
    ours, theirs = (final_loss(result, name) for name in (RULE, CHASED))
    unseen = [result.estimate(name, "final").mean for name in (RULE, CHASED)]
    print(
        f"{title:<20}{horizon:>5}{found.value:>7.2f} ({found.low:.2f}-{found.high:.2f})"
        f"{ours:>9.4f}{theirs:>9.4f}{unseen[0]:>9.3f}{unseen[1]:>9.3f}"
        f"   {best} {against.value:.2f}   {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return found.value, ours / theirs, unseen[0] / unseen[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rule", default="default")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--tuning-tasks", type=int, default=16)
    parser.add_argument("--only", nargs="+", help="rows by name")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    rule, broken = load_rule(args.rule), []
    sizes = {"tasks": args.tasks, "tuning_tasks": args.tuning_tasks}
    head = f"{'speed-up over Adam (95 %)':>26}{'final':>9}{'Adam':>9}{'unseen':>9}{'Adam':>9}"
    print(f"{'':<20}{'K':>5}{head}   over the best", flush=True)
    if not args.only or "digits" in args.only:
        for horizon in (20, 100, 500):
            value, final, unseen = show("digits", rule, Digits(), horizon, sizes)
            if horizon in LEAST and value < LEAST[horizon]:
                broken.append(f"digits, K = {horizon}: speed-up {value:.2f}")
            if horizon == 500 and max(final, unseen) > 1.5:
                broken.append(f"digits, K = 500: final {final:.2f}, unseen {unseen:.2f} x Adam's")
    faster = 0
    for name, family in transfer().items():
        if not args.only or name in args.only:
            value, _, _ = show(name, rule, family, 100, sizes)
            faster += name in TRANSFERRED and value >= 1.0
    if not args.only and faster < 3:
        broken.append(f"transfer: as fast as Adam on {faster} of {len(TRANSFERRED)}")
    if not args.only or "long" in args.only:
        draw = draw_tasks(Digits().held_out(), RUNS, LONG, Generator().manual_seed(2**31 + 7))
        told = rule.for_horizon(LONG)
        run = unroll_tasks(draw.loss_fn, draw.params, draw.batches, told, differentiable=False)
        with torch.no_grad():
            ends = scored_losses(draw.loss_fn, run, draw.query)[:, -1]
        higher = (ends > run.losses[:, 0]).sum().item()
        odd = (~run.losses.isfinite()).any(1).sum().item()
        print(f"{RUNS} runs of {LONG} steps: {higher} end above their start, {odd} give NaN")
        if higher or odd:
            broken.append(f"{higher} runs end above their start, {odd} give NaN")
    print("\nbounds broken:", "; ".join(broken) or "none")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
