"""A right answer to hw2: how much larger gradients of matrices are than gradients of vectors.

A layer's weight gradient is its bias gradient times the layer's inputs, so their ratio is the size
of those inputs, and with it the contrast of the task: faint images, small ratio.
"""

import torch


def feature(*, loss, step, params, grads, buffer):
    matrices = [log_size(g) for g in grads.values() if g.dim() > 1]
    vectors = [log_size(g) for g in grads.values() if g.dim() <= 1]
    return 1.5 + 0.5 * (torch.stack(matrices).mean() - torch.stack(vectors).mean())


def log_size(g):
    """The logarithm of the mean square, finite at 0, at 1e30 and at NaN."""
    return torch.log(torch.nan_to_num(g).clamp(-1e12, 1e12).square().mean() + 1e-12)
