"""A right answer to hw2: how unevenly the gradient is spread over the tensors of the net.

Contrast multiplies the inputs, so the first layer's gradient grows with it and the last one's does
not: their spread tells faint images from bright ones.
"""

import torch


def feature(*, loss, step, params, grads, buffer):
    sizes = []
    for g in grads.values():
        g = torch.nan_to_num(g).clamp(-1e12, 1e12)
        sizes.append(torch.log(g.square().mean() + 1e-12))
    sizes = torch.stack(sizes)
    return ((sizes - sizes.mean()).square().mean() + 1e-6).sqrt()
