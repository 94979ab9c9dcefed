"""A right answer to hw0: the buffer keeps its graph."""

import torch


def unroll_by_hand(loss_fn, params, batches, lr, momentum):
    """Make a step of momentum SGD per batch; return (the last params, the K losses before updates).

    loss_fn(params, batch) is a scalar; params is {name: tensor}; batches is a list; lr and momentum
    are scalar tensors.
    """
    params = {name: w if w.requires_grad else w.requires_grad_() for name, w in params.items()}
    buffer = {name: torch.zeros_like(w) for name, w in params.items()}
    losses = []
    for batch in batches:
        with torch.enable_grad():
            loss = loss_fn(params, batch)
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        for (name, v), g in zip(buffer.items(), grads):
            buffer[name] = momentum * v + g
        params = {name: w - lr * buffer[name] for name, w in params.items()}
        losses.append(loss)
    return params, torch.stack(losses)
