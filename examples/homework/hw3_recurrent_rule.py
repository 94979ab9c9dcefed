"""Homework 3. A rule that remembers.

Question. The built-in `MetaOptimizer` sees one step at a time: it cannot know that the loss has not
moved for ten steps. Give level 4 a memory of its own, an LSTM, whose state is carried from inner
step to inner step like the momentum buffer is. How do you keep that differentiable?

Equation. With features x_k of the present step,

    h_(k+1), c_(k+1) = LSTM(x_k; h_k, c_k),     (eta_k, mu_k) = bounded(W h_(k+1) + b),
    v_(k+1) = mu_k v_k + g_k,                   w_(k+1) = w_k - eta_k v_(k+1).

The hypergradient runs through h and c too: backpropagation through time, and time is training.
Source: Andrychowicz et al. 2016, arXiv 1606.04474 (there an LSTM per coordinate; here one for the
net); `nested/levels/meta_optimizer.py` shows how signals are kept in bounds.

A good answer keeps h and c in the *state* that forward takes and returns (dicts and tuples of
tensors; never self), bounds both signals (lr above 0, at most 100; momentum from 0 to below 1) with
a live gradient, survives gradients of 1e30 and a NaN loss, works for any names,
shapes and dtypes, and under torch.vmap (nn.LSTMCell does not run there: write the four gates out).
The grader gives it pasts that differ in one loss, up to five steps back, early and late in a run,
and looks whether it can tell. A GRU is fine too. An average or a window of losses is not: what they
keep does not depend on what they see.

Grade it:  python -m nested.homework grade --only hw3
Time: about 2 hours. Difficulty: 3 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in a sentence or two, for your teacher):
  1. What breaks if h is kept in self instead of the state? Name two things.
     ...
  2. The momentum buffer is a memory too. What can h remember that v cannot?
     ...
"""

from nested import UpdateRule


class RecurrentRule(UpdateRule):
    """Momentum SGD whose learning rate and momentum come from an LSTM that watches the run."""

    def __init__(self):
        super().__init__()
        raise NotImplementedError

    def init(self, params):
        """The state before the first step: buffers, h, c, and what else you carry."""
        raise NotImplementedError

    def forward(self, params, grads, state, loss):
        """One move: return Step(params, state, {"lr": ..., "momentum": ...})."""
        raise NotImplementedError
