"""A right answer to hw2 by a loop, in float32: gradients of matrices against those of vectors."""

import torch


def feature(*, loss, step, params, grads, buffer):
    sums = {True: 0.0, False: 0.0}
    counts = {True: 0, False: 0}
    for gradient in grads.values():
        g = torch.nan_to_num(gradient.float()).clamp(-1e12, 1e12)
        is_matrix = g.ndim > 1
        sums[is_matrix] = sums[is_matrix] + torch.log((g * g).mean() + 1e-12)
        counts[is_matrix] += 1
    ratio = sums[True] / counts[True] - sums[False] / counts[False]
    return (1.5 + ratio / 2).to(loss.dtype)
