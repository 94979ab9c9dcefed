"""Homework zero to unroll. Write the heart of this package yourself.

Question. A learned optimizer sounds like a large machine. It is about sixty lines. Can you write it
from an empty file, in five small tasks, and watch it learn?

Below this text the file is empty. Write five things under the names given here. Each task uses the
one before. Grade the file as often as you like: a task that is not written yet does no harm to the
others. `params`, `grads` and `buffer` are dicts {name: tensor} with the same names. `lr` and
`momentum` are tensors with one number.

Equation. One inner step k, from weights w_k and buffer v_k, on the batch of that step:

    task 1     g_k = dL/dw (w_k; batch_k)
    task 2     v_(k+1) = mu_k v_k + g_k,      w_(k+1) = w_k - eta_k v_(k+1)
    task 3     repeat for k = 0 .. K - 1
    task 4     (eta_k, mu_k) = net_theta(loss of step k)
    task 5     theta <- theta - Adam's step on d/dtheta mean_k L(w_k; batch_k)

Task 5 needs the derivative *through* tasks 1 to 4. So no line may leave the graph: no .item(), no
.detach(), no float(), no torch.no_grad().

Task 1.  gradient(loss_fn, params, batch) -> (loss, grads)
    loss_fn(params, batch) is a tensor with one number, and params already require gradients.
    torch.autograd.grad takes a list of tensors. With create_graph=True the gradient itself stays in
    the graph, so that it can be differentiated again.

Task 2.  step(params, buffer, grads, lr, momentum) -> (params, buffer)
    The second line above. Return new dicts with new tensors, and change nothing that came in.

Task 3.  unroll(loss_fn, params, batches, rule) -> (params, losses)
    One step for each batch in the list `batches`. Begin with state = rule.init(params). In each
    step take the gradient (task 1), then ask the rule to move:
    params, state, signals = rule(params, grads, state, loss). Return the last params, and the K
    losses before each move as one tensor of shape (K,).

Task 4.  class MetaOptimizer(UpdateRule)
    init(params) returns the first state: a buffer of zeros.
    forward(params, grads, state, loss) takes one step (task 2) and returns
    Step(params, state, {"lr": lr, "momentum": momentum}). Both numbers come from a small net that
    sees log |loss|. A sigmoid keeps them in bounds: lr above 0 and at most 100, momentum from 0 to
    below 1. The loss may be 0, 1e-30 or 1e30, but the net must see a finite number of order one.
    UpdateRule is a torch.nn.Module, so torch.nn.Linear layers work as usual.

Task 5.  meta_train(rule, tasks, lr) -> list of floats
    `tasks` is a list of (loss_fn, params, batches). Make one meta-step for each: unroll (task 3),
    take the mean of the losses, and move rule.parameters() by torch.optim.Adam with learning rate
    lr. Make one optimizer for all meta-steps. Return the mean losses. (.item() is right here.)

The file may import torch, what comes with Python, and two names of this package:
`from nested import Step, UpdateRule`. Step is what a rule returns: Step(params, state, signals).

Source: Andrychowicz et al. 2016, arXiv 1606.04474, whose idea this is; Maclaurin, Duvenaud, Adams
2015, arXiv 1502.03492, for the derivative through training. Lessons 00 to 03 take the same path.

A good answer has five parts of five to fifteen lines each.
  - Task 1: the gradient is PyTorch's, and it can be differentiated.
  - Task 2: a step moves the weights as torch.optim.SGD does.
  - Task 3: every hypergradient agrees with finite differences of 1e-5 in lr, momentum and w_0.
  - Task 4: the signals are bounded, and the moves follow from them.
  - Task 5: after 150 meta-steps the rule trains held-out nets better than before.

Grade it:  python -m nested.homework grade --only hw_zero
Time: about 4 hours. Difficulty: 3 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. Which line would you change to drop the second derivative, and what would be lost?
     ...
  2. Your rule sees one number, the loss. Which feature would you add next, and why?
     ...
"""
