"""A judge of two rules raced on the same tasks: is one better, beyond chance?"""

from __future__ import annotations

import math
from collections.abc import Callable

from nested.conformance.check import Evidence, Verdict

SURE = 2.0  # standard errors from which a paired difference counts


def judge_gain(plain: str, better: str, hint: str) -> Callable[[Evidence], Verdict]:
    """Return a judge of {name: mean losses (T,)} that asks for ``better`` to beat ``plain``, in the
    mean over tasks of the difference of logarithms (a share, which no single task can dominate).
    """

    def judge(evidence: Evidence) -> Verdict:
        gain = evidence[plain].double().log() - evidence[better].double().log()  # (T,)
        mean, error = gain.mean().item(), gain.std().item() / math.sqrt(len(gain))
        with_it, without = (evidence[name].mean().item() for name in (better, plain))
        measured = (
            f"mean loss {with_it:.3f}, {plain} {without:.3f}: lower by"
            f" {1 - math.exp(-mean):.1%}, {mean / error:.1f} standard errors over {len(gain)} tasks"
        )
        return Verdict(mean > SURE * error, measured, hint)

    return judge
