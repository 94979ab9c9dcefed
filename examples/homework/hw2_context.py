"""Homework 2. A feature that earns its place.

Question. Level 4 chooses from the features that it sees, the context. A rule that sees only the
loss cannot distinguish a task of faint images from a task of bright ones. Which *one number* would
you show it?

Equation. At inner step k a rule computes c_k = feature(loss_k, k, w_k, g_k, v_k), and from it the
learning rate and the momentum of this step. The feature earns its place if rules that see it beat
rules that do not, on held-out tasks:

    mean over tasks of [ loss without it - loss with it ]  >  2 standard errors.

Source: Metz et al. 2020, arXiv 2009.11243, appendix, lists the features of learned optimizers. The
built-in features, and the guards that they need, are in `nested/levels/context.py`.

A good answer is a scalar of order one. It is finite for any input: zero gradients, gradients of
1e30, a NaN loss. It does not depend on the names or the order of the weights. It is not one of the
built-in features: log_loss, log_step, log_grad_norm, grad_cosine. It wins a paired race on 64
held-out tasks of digits, whose contrast goes from 1/3 to 3.

Grade it:  python -m nested.homework grade --only hw2
Time: about 60 minutes. Difficulty: 3 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. What differs between these tasks, and how does your feature measure it?
     ...
  2. Name a family of tasks in which your feature would be worth nothing.
     ...
"""


def feature(*, loss, step, params, grads, buffer):
    """Return one number, a scalar tensor.

    loss and step are scalar tensors (step counts from 0); params, grads and buffer (the momentum
    buffer) are {name: tensor}, named alike. It is called after the gradient, before the update.
    """
    raise NotImplementedError
