"""Slot hw2: a feature of the context that earns its place.

Letters: T tasks, K steps of a run, P of these steps, N weights.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.context import CONTEXT_CHECKS, Feature, seen_in_a_run, values_in_a_run
from nested.homework.remote import call
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.homework.slots.gain import judge_gain, learn_and_race
from nested.homework.slots.slot import Slot
from nested.levels.context import FEATURES
from nested.levels.forward import Params
from nested.levels.meta_optimizer import MetaOptimizer
from nested.meta.config import MetaConfig
from nested.tasks.digits import Digits

BUILT_IN = tuple(FEATURES)
TRAINING = MetaConfig(meta_steps=80, unroll_length=10, max_horizon=20, tasks=8)
RANGES = {"lr_range": (1e-2, 2.0), "momentum_range": (0.0, 0.9)}  # no run diverges in these ranges
HORIZON = 20
NEW = 0.05  # of its spread: least change of a feature while all built-in ones stay


def _serve(module: ModuleType) -> Served:
    return {"feature": lambda inputs: module.feature(**inputs)}


def _subject(sandbox: Sandbox) -> Feature:
    def feature(**inputs: Any) -> Tensor:
        return call(sandbox, "feature", inputs)

    return feature


def _probe_own(feature: Feature, seed: int) -> Evidence:
    """Compute the feature (T, K) and each built-in feature in runs on digits.

    Also compute the feature at P steps (T, P) of these runs, and at their twins, where all built-in
    features are the same."""
    runs = seen_in_a_run(seed)
    values = {"student": values_in_a_run(feature, seed)}
    for name in BUILT_IN:

        def built_in(inputs: dict, name: str = name) -> Tensor:
            return FEATURES[name].compute(**inputs)

        values[name] = torch.stack([torch.vmap(built_in)(inputs) for inputs in runs], dim=1)
    with torch.no_grad():
        for name, moments in zip(("moments", "twins"), _twins(runs), strict=True):
            each = [torch.vmap(lambda task: feature(**task))(inputs) for inputs in moments]
            values[name] = torch.stack(each, dim=1)
    return values


def _twins(runs: list[dict[str, Any]]) -> tuple[list[dict], list[dict]]:
    """Pick P of K = 2 P + 1 or more steps, in float64, and make a twin of each.

    A twin keeps the loss, the step, the gradient's length and its angle to the buffer. The rest
    comes from another task and another step. So all built-in features are the same."""
    runs = [tree_map(lambda x: x.double(), inputs) for inputs in runs[1:]]  # with a buffer
    count = len(runs) // 2
    moments, twins = runs[:count], []
    for inputs, other in zip(moments, runs[count:]):
        other = tree_map(lambda x: x.roll(1, 0), other)  # of the next task
        grad, buffer = (_in_a_row(other[part]) for part in ("grads", "buffer"))  # (T, N)
        length, cosine = _length_and_cosine(inputs)
        unit = grad / grad.norm(dim=1, keepdim=True)
        across = buffer - (buffer * unit).sum(1, keepdim=True) * unit
        across = across / across.norm(dim=1, keepdim=True)
        turned = cosine * unit + (1 - cosine**2).clamp(min=0).sqrt() * across
        parts = {"grads": length * unit, "buffer": buffer.norm(dim=1, keepdim=True) * turned}
        made = {part: _as(rows, other[part]) for part, rows in parts.items()}
        twins.append({**other, **made, "loss": inputs["loss"], "step": inputs["step"]})
    return moments, twins


def _length_and_cosine(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    grad, buffer = (_in_a_row(inputs[part]) for part in ("grads", "buffer"))
    length = grad.norm(dim=1, keepdim=True)  # (T, 1)
    cosine = (grad * buffer).sum(1, keepdim=True) / length / buffer.norm(dim=1, keepdim=True)
    return length, cosine


def _in_a_row(tensors: Params) -> Tensor:
    return torch.cat([x.flatten(1) for x in tensors.values()], dim=1)


def _as(rows: Tensor, tensors: Params) -> Params:
    sizes = [x[0].numel() for x in tensors.values()]
    parts = zip(tensors.items(), rows.split(sizes, dim=1), strict=True)
    return {name: part.reshape(x.shape) for (name, x), part in parts}


def _judge_own(evidence: Evidence) -> Verdict:
    likeness = {name: _rank_correlation(evidence["student"], evidence[name]) for name in BUILT_IN}
    name, most = max(likeness.items(), key=lambda item: item[1])
    measured = f"most like {name}: rank correlation {most:.4f}"
    if not most < 0.999:
        return Verdict(False, measured, f"{name} is built in; measure something new")
    new = (evidence["moments"] - evidence["twins"]).std() / evidence["student"].std().double()
    measured += f"; where all built-in features stay, it moves by {new:.2g} of its spread"
    hint = "it is made of built-in features, which a rule can combine itself: tell it more"
    return Verdict(bool(new > NEW), measured, hint)


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, without its sign: a logarithm, tanh or multiple of a feature is that feature."""
    ranks = [x.double().flatten().argsort().argsort().double() for x in (first, second)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].abs().item()


def _probe_worth(feature: Feature, seed: int) -> Evidence:
    """Race two rules that differ in one feature: their mean losses (T,) on held-out tasks."""
    contexts = {"loss only": ("log_loss",), "with it": ("log_loss", feature)}
    rules = {name: MetaOptimizer(context=context, **RANGES) for name, context in contexts.items()}
    return learn_and_race(rules, Digits(), Digits(), TRAINING, HORIZON, seed, "loss only")


SLOT = Slot(
    name="hw2",
    file="hw2_context.py",
    title="A feature that earns its place",
    serve=_serve,
    subject=_subject,
    checks=[
        *CONTEXT_CHECKS,
        Check("it is not a built-in feature", _probe_own, _judge_own),
        Check(
            "it earns its place",
            _probe_worth,
            judge_gain(
                "loss only",
                "with it",
                "what differs between these tasks, and how do the gradients depend on it?",
            ),
        ),
    ],
)
