"""Check that gradients go through a memory's writes, and that it refuses wrong inputs.

Letters: B samples, T tokens, D width.
Source: central differences in float64; Behrouz et al. 2025 (arXiv 2512.24695), section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from nested.conformance.check import Check, Evidence, Verdict, judge_equal
from nested.conformance.memory_reads import CHUNK, DIM, SAMPLES, Make, draw, in_parts, made

TOKENS = 37  # more than four chunks
STEPS = (1e-5, 1e-7)  # of central differences; a kink spoils at most one of the two
CLOSE = 1e-5  # relative error of a slope
CUT = 10  # tokens after which the graph is cut


def _probe_gradients(make: Make, seed: int) -> Evidence:
    """Compute slopes along a random direction of each parameter and of the input, by autograd and
    by central differences. The input is read whole, and in two parts with the state carried.

    The memory is in evaluation mode: in training mode its gates may replace a slope of 0."""
    results = {}
    for chunk in (1, CHUNK):
        memory = made(make, seed, chunk).eval()
        x, generator = draw(memory, seed, tokens=TOKENS), Generator().manual_seed(seed)
        learned = {name: p for name, p in memory.named_parameters() if p.requires_grad}
        if x.is_floating_point():
            learned["the input"] = x.requires_grad_()
        whole, parts = (in_parts(memory, x, sizes)[0] for sizes in ([TOKENS], [13, TOKENS - 13]))
        mix = torch.randn(whole.shape, generator=generator, dtype=whole.dtype)
        slopes = [
            torch.autograd.grad((y * mix).sum(), list(learned.values()), materialize_grads=True)
            for y in (whole, parts)
        ]
        for (name, p), *both in zip(learned.items(), *slopes, strict=True):
            way = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            ours = [(grad * way).sum().item() for grad in both]
            wanted = _difference(memory, x, mix, p, way, STEPS[0])
            if any(_off(slope, wanted) > CLOSE for slope in ours):  # or is there a kink between?
                other = _difference(memory, x, mix, p, way, STEPS[1])
                wanted = min(wanted, other, key=lambda end: max(_off(slope, end) for slope in ours))
            for slope, reading in zip(ours, ("", ", in two parts"), strict=True):
                results[f"{name}, chunk {chunk}{reading}"] = [slope, wanted]
    return {"slopes": results}


@torch.no_grad()
def _difference(
    memory: nn.Module, x: Tensor, mix: Tensor, parameter: Tensor, way: Tensor, step: float
) -> float:
    original, ends = parameter.clone(), []
    for sign in (1, -1):
        parameter.copy_(original + sign * step * way)
        ends.append((memory(x)[0] * mix).sum().item())
    parameter.copy_(original)
    return (ends[0] - ends[1]) / (2 * step)


def _off(slope: float, wanted: float) -> float:
    return abs(slope - wanted) / max(1e-4, abs(wanted))


def _judge_gradients(evidence: Evidence) -> Verdict:
    slopes = evidence["slopes"]
    still = [name for name, (_, wanted) in slopes.items() if not abs(wanted) > 1e-9]
    if still or not slopes:
        measured = f"no output depends on {', '.join(still) or 'any parameter'}"
        return Verdict(False, measured, "remove the parameter, or use it in the read")
    dead = [name for name, (slope, _) in slopes.items() if slope == 0]
    if dead:
        measured = f"no gradient reaches {', '.join(dead)}"
        return Verdict(False, measured, "keep writes in the graph: no detach, no no_grad")
    off = {name: _off(slope, wanted) for name, (slope, wanted) in slopes.items()}
    wrong = [name for name, distance in off.items() if not distance < CLOSE]  # NaN is wrong too
    name = wrong[0] if wrong else max(off, key=off.__getitem__)
    measured = f"the gradient of {name} and its central difference differ by {off[name]:.1g}"
    return Verdict(not wrong, measured, "is a part of the writes cut from the graph?")


def _probe_detached(make: Make, seed: int) -> Evidence:
    """Compare reads with the graph cut after every tenth token to reads with the whole graph, and
    test which early tokens still have gradients. A model's other parts are not cut, so for a model
    the reads alone count."""
    memory = made(make, seed)
    x = draw(memory, seed, tokens=TOKENS)
    with torch.no_grad():
        whole = memory(x)[0]
    for part in memory.modules():
        if hasattr(part, "detach_every"):
            part.detach_every = CUT
    if hasattr(memory, "config"):
        return {"ours": [memory(x)[0].detach()], "others": [whole]}
    x.requires_grad_()
    y = memory(x)[0]
    early = [torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)[0] for t in (CUT, 25)]
    left = [grad[:, : t // CUT * CUT] for grad, t in zip(early, (CUT, 25))]
    is_reached = torch.stack([grad[:, t].abs().max() for grad, t in zip(early, (CUT, 25))]) > 0
    return {
        "ours": [y.detach(), *left, is_reached],
        "others": [whole, *map(torch.zeros_like, left), torch.ones_like(is_reached)],
    }


def _refusals(make: Make, seed: int) -> dict[str, Callable[[], object]]:
    memory = made(make, seed)
    x = draw(memory, seed)
    other = made(make, seed, dim=2 * DIM)
    mistakes = {
        "an empty sequence": lambda: memory(x[:, :0]),
        "no samples": lambda: memory(x[:0]),
        "one dimension too few": lambda: memory(x[0]),
        "a state of another batch size": lambda: memory(x, memory.init(SAMPLES + 1)),
        "a state of another model": lambda: memory(x, other.init(SAMPLES)),
        "a state of the wrong form": lambda: memory(x, {"what": torch.zeros(1)}),
        "a length over that of the text": lambda: memory(x, lengths=[x.shape[1] + 1] * SAMPLES),
        "a mask of another shape": lambda: memory(x, write=torch.ones(1, 1, dtype=torch.bool)),
    }
    if hasattr(memory, "config"):
        mistakes["vectors for tokens"] = lambda: memory(x.double())
        mistakes["a token outside the vocabulary"] = lambda: memory(x + memory.config.vocab)
    else:
        mistakes["another width"] = lambda: memory(x[..., 1:])
        mistakes["whole numbers"] = lambda: memory(x.long())
    return mistakes


@torch.no_grad()
def _probe_refusals(make: Make, seed: int) -> Evidence:
    results = {}
    for name, mistake in _refusals(make, seed).items():
        try:
            mistake()
            results[name] = "no error"
        except (ValueError, TypeError) as error:
            results[name] = "" if str(error) else "an error without a message"
        except Exception as error:
            results[name] = f"a {type(error).__name__}"
    memory = made(make, seed, chunk=4 * TOKENS)
    y, state = memory(draw(memory, seed))  # longer than the input
    finite = y.isfinite().all().item() and len(y) == SAMPLES
    results["a long chunk"] = "" if finite else "reads that are not finite"
    return {"fault": results}


def _judge_refusals(evidence: Evidence) -> Verdict:
    wrong = {name: fault for name, fault in evidence["fault"].items() if fault}
    measured = "; ".join(f"{name}: {fault}" for name, fault in wrong.items())
    hint = "raise ValueError with one sentence: what came in, and what is allowed"
    return Verdict(not wrong, measured or f"all {len(evidence['fault'])} cases are handled", hint)


GRADIENT_CHECKS = [
    Check("gradients go through writes", _probe_gradients, _judge_gradients),
    Check(
        "detach_every cuts gradients and nothing else",
        _probe_detached,
        judge_equal("detach the state after every n-th token, counted from the first"),
    ),
    Check("mistakes are refused", _probe_refusals, _judge_refusals),
]
