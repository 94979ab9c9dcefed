"""Homework 4. A rate for each layer that transfers to a deeper net.

Question. Different layers need different learning rates. A rule could learn one number for each
layer, but then it fits only nets of that depth. Write a rule that gives each tensor of weights its
rate. Trained on nets with 2 hidden layers, it must beat a single rate on nets with 4.

Equation. For tensors p = 1 .. P, with momentum mu,

    eta_p = r_theta(features of tensor p),    v_p <- mu v_p + g_p,    w_p <- w_p - eta_p v_p.

There is one function r_theta for all tensors, so P may be any number.
Source: You, Gitman, Ginsburg 2017, arXiv 1708.03888 (LARS: eta_p from norms of w_p and g_p), and
Metz et al. 2022, arXiv 2203.11860, who feed per-tensor features to a small net.

A good answer returns signals {"lr": (P,)} in the order of params, and moves by exactly these rates.
It transfers: its features (depth, norms of gradient and weights) mean the same in nets that it was
not trained on. The order of params gives the depth, so the rule sets `ordered = True`.

Grade it:  python -m nested.homework grade --only hw4
Time: about 2 hours. Difficulty: 4 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. Which layers get the larger rates from your trained rule, and why should they?
     ...
  2. At which depth should your rule stop winning, and which feature would you add then?
     ...
"""

from nested import UpdateRule


class DepthRule(UpdateRule):
    """Momentum SGD with a learning rate for each tensor, from one small net for all of them."""

    ordered = True  # goes by the order of params, though not by their names

    def __init__(self):
        super().__init__()
        raise NotImplementedError

    def init(self, params):
        """The state before the first step."""
        raise NotImplementedError

    def forward(self, params, grads, state, loss):
        """One move: return Step(params, state, {"lr": (P,), ...})."""
        raise NotImplementedError
