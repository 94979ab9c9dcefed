"""Windows of a long run: cut with ``detached``, they need the memory of one window."""

import gc

import torch
from torch.utils._pytree import tree_leaves

from nested import detached, unroll
from tests.problems import learned_rule, problem


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def graph_size(tensor):
    """How many nodes a backward pass from ``tensor`` would visit."""
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return len(seen)


def run_windows(count, cut):
    """The graph's size, and the tensors alive, after each window of two steps."""
    loss_fn, params, batches, _ = problem(2)
    rule, state, sizes = learned_rule(), None, []
    for _ in range(count):
        run = unroll(loss_fn, params, batches, rule, state)
        params, state = detached((run.params, run.state)) if cut else (run.params, run.state)
        sizes.append((graph_size(run.losses.sum()), tensors_alive() if cut else 0))
    return sizes


def test_memory_is_flat_over_windows_that_are_cut():
    cut, whole = run_windows(5, True), run_windows(4, False)
    graphs, alive = zip(*cut)
    assert len(set(graphs[1:])) == 1 and len(set(alive[2:])) == 1
    assert all(a[0] < b[0] for a, b in zip(whole, whole[1:]))


def test_detached_shares_values_and_cuts_every_tensor_of_a_tree():
    weight = torch.ones(2, requires_grad=True)
    tree = {"a": weight * 2, "b": (weight + 1, [weight, "text", 3])}
    cut = detached(tree)
    assert not any(isinstance(x, torch.Tensor) and x.requires_grad for x in tree_leaves(cut))
    assert cut["a"].data_ptr() == tree["a"].data_ptr() and cut["b"][1][1:] == ["text", 3]
    assert tree["a"].requires_grad
