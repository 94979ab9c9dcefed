"""Homework 0. One detached line.

Question. Below are K steps of momentum SGD. They are written so that the outcome can be
differentiated with respect to the learning rate, the momentum and the initial weights. They train
a net exactly as torch.optim.SGD does. And yet nothing can be learned through them, because one line
stops the hypergradient. Which line is it, and what should it say?

Equation. With g_k = dL_k/dw at w_k, K steps are

    v_(k+1) = mu v_k + g_k,        w_(k+1) = w_k - eta v_(k+1),        k = 0 .. K - 1.

Everything on the right depends on eta, mu and w_0. From the second step on, g_k and v_k depend on
them too. The hypergradient d L(w_K) / d eta is a sum over all these paths. A line that cuts one of
the paths gives a plausible number that is wrong.
Source: Maclaurin, Duvenaud, Adams 2015, arXiv 1502.03492, section 2; lesson 01 of this package.

A good answer changes one line. The losses stay as they are. Their derivatives with respect to eta,
mu and w_0 agree with finite differences of 1e-5.

Grade it:  python -m nested.homework grade --only hw0
Time: about 5 minutes. Difficulty: 1 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. Before your change, which of the three hypergradients were zero? Which were only wrong? Why?
     ...
  2. Who would want such a line in their code on purpose, and what would they call it?
     ...
"""

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
            buffer[name] = momentum * v.detach() + g
        params = {name: w - lr * buffer[name] for name, w in params.items()}
        losses.append(loss)
    return params, torch.stack(losses)
