"""Homework 5 (bonus). Run it backwards.

Question. The unroll of lesson 02 keeps every step for its backward pass, so memory grows with K.
But momentum SGD can be run *backwards*: the last weights and the last buffer determine all earlier
ones. Write an unroll whose memory does not grow with K.

Equation. Forwards v_(k+1) = mu v_k + g(w_k), w_(k+1) = w_k - eta v_(k+1). Backwards, therefore,

    w_k = w_(k+1) + eta v_(k+1),        v_k = (v_(k+1) - g(w_k)) / mu.

In the backward pass, carry the cotangents (dw, dv) of weights and buffer. At each step, with the
cotangent dl of this step's loss,

    dv <- dv - eta dw,    deta <- deta - <dw, v_(k+1)>,    dmu <- dmu + <dv, v_k>,
    dw <- dw + H(w_k) dv + dl g(w_k),    dv <- mu dv,

where H dv, a Hessian-vector product, is one more backward pass: the gradient of <g(w_k), dv>.
Source: Maclaurin, Duvenaud, Adams 2015, arXiv 1502.03492, algorithm 2. They also store the bits
that the division by mu loses. In float64 and for K below a hundred that is not needed.

A good answer is a torch.autograd.Function that saves the last weights and the last buffer, and no
step in between. The values are those of torch.optim.SGD. The hypergradients agree with finite
differences. 66 steps on 64,000 weights need no more memory than 2. You may assume
0 < momentum < 1.

Grade it:  python -m nested.homework grade --only hw5
Time: about 2 hours. Difficulty: 5 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. By how much does a rounding error in v_K grow on the way to v_0? What about float32, K = 100?
     ...
  2. Which rules in this package could be run backwards like this, and which could not?
     ...
"""


def reversible_unroll(loss_fn, params, batches, lr, momentum):
    """Make a step of momentum SGD per batch; return (the last params, the K losses before updates).

    loss_fn(params, batch) is a scalar; params is {name: tensor}; batches is a list; lr and momentum
    are scalar tensors. Differentiable in params, lr and momentum, in memory that K does not change.
    """
    raise NotImplementedError
