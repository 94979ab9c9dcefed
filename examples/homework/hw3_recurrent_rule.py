"""Homework 3. A rule that remembers.

Question. The built-in `MetaOptimizer` sees one step at a time. It cannot know that the loss has not
changed for ten steps. Give level 4 a memory: an LSTM whose state is carried from inner step to
inner step, as the momentum buffer is. How do you keep that differentiable?

Equation. With features x_k of the present step,

    h_(k+1), c_(k+1) = LSTM(x_k; h_k, c_k),     (eta_k, mu_k) = bounded(W h_(k+1) + b),
    v_(k+1) = mu_k v_k + g_k,                   w_(k+1) = w_k - eta_k v_(k+1).

The hypergradient runs through h and c too: backpropagation through time, and time is training.
Source: Andrychowicz et al. 2016, arXiv 1606.04474. There each coordinate has an LSTM; here the net
has one. `nested/levels/meta_optimizer.py` shows how signals are kept in bounds.

A good answer keeps five promises.
  - h and c are in the *state* that forward takes and returns, never in self. The state is made of
    dicts and tuples of tensors.
  - Both signals are bounded, and their gradients never vanish: lr is above 0 and at most 100,
    momentum is from 0 to below 1.
  - The rule survives gradients of 1e30 and a NaN loss.
  - It works for any names, shapes and dtypes.
  - It runs under torch.vmap. nn.LSTMCell does not run there, so write out the four gates.
The grader gives the rule two pasts that differ in one loss, up to five steps back. It does so early
and late in a run, and checks that the rule's signals differ. A GRU is fine too. An average or a
window of losses is not, because what those keep does not depend on what they see.

Grade it:  python -m nested.homework grade --only hw3
Time: about 2 hours. Difficulty: 3 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
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
