"""A right answer to hw2 by a loop, in float32: how much of the gradient is in the biases."""

import torch


def feature(*, loss, step, params, grads, buffer):
    of_biases = torch.zeros(())
    of_all = torch.zeros(())
    for gradient in grads.values():
        g = torch.nan_to_num(gradient.float()).clamp(-1e12, 1e12)
        square = (g * g).mean()
        of_all = of_all + square
        if g.ndim < 2:
            of_biases = of_biases + square
    return torch.log((of_biases + 1e-12) / (of_all + 1e-12)).to(loss.dtype) / 2 + 1
