"""``NestedOptimizer.flush``: no gradient is left in a sum when training ends."""

import pytest
import torch
from torch import nn

from nested.optim import NestedOptimizer
from tests.optim.runs import batch, make_net, same, train


def weights(count=1):
    return [nn.Parameter(torch.zeros(())) for _ in range(count)]


def run(optimizer, grads):
    for grad in grads:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = None if grad is None else torch.tensor(float(grad))
        optimizer.step()


@pytest.mark.parametrize("reduction, moved", [("sum", 11.0), ("mean", 5.5)])
def test_ten_steps_at_period_4_leave_nothing_after_a_flush(reduction, moved):
    (p,) = weights()
    groups = [{"params": [p], "period": 4}]
    optimizer = NestedOptimizer(groups, torch.optim.SGD, reduction, lr=1.0)
    run(optimizer, [0] * 8 + [1, 10])
    assert p == 0
    optimizer.flush()
    assert p.item() == -moved and p.grad == 10  # a mean over the two gradients that waited
    assert optimizer.moves() == {"group 0": 3}
    optimizer.flush()
    assert p.item() == -moved and optimizer.moves() == {"group 0": 3}  # nothing waits any more


@pytest.mark.parametrize("reduction, moved", [("sum", 300.0), ("mean", 150.0)])
def test_the_clock_goes_on_after_a_flush(reduction, moved):
    (p,) = weights()
    optimizer = NestedOptimizer([{"params": [p], "period": 4}], torch.optim.SGD, reduction, lr=1.0)
    run(optimizer, [1, 1])
    optimizer.flush()
    before = p.item()
    run(optimizer, [100])
    assert p.item() == before
    run(optimizer, [200])  # the fourth step: two gradients since the flush
    assert p.item() == before - moved
    run(optimizer, [8, 8, 8])
    assert p.item() == before - moved
    run(optimizer, [8])
    assert p.item() == before - moved - (32 if reduction == "sum" else 8)


def test_a_flush_moves_no_group_that_has_nothing_to_apply():
    p, q, r = weights(3)
    groups = [{"params": [p]}, {"params": [q], "period": 2}, {"params": [r], "period": 3}]
    optimizer = NestedOptimizer(groups, torch.optim.SGD, lr=1.0, weight_decay=0.5, momentum=0.9)
    run(optimizer, [1, 1, 1, 1])
    before = p.item(), q.item(), r.item()
    optimizer.flush()
    assert (p.item(), q.item()) == before[:2] and r.item() != before[2]
    assert optimizer.moves() == {"group 0": 4, "group 1": 2, "group 2": 2}


def test_a_weight_without_a_gradient_at_some_steps_has_the_mean_over_all_that_waited():
    """A loss that does not depend on a weight has a gradient of zero there."""
    (p,) = weights()
    optimizer = NestedOptimizer([{"params": [p], "period": 4}], torch.optim.SGD, "mean", lr=1.0)
    run(optimizer, [6, None, 3])
    optimizer.flush()
    assert p.item() == -3 and p.grad == 3


def test_after_a_flush_it_is_the_base_on_the_sums():
    net, twin = make_net(), make_net()
    groups = [{"params": list(net.parameters()), "period": 4}]
    optimizer = NestedOptimizer(groups, torch.optim.AdamW, lr=0.05)
    train(net, optimizer, range(6))
    optimizer.flush()
    base = torch.optim.AdamW(twin.parameters(), lr=0.05)
    for steps in (range(4), range(4, 6)):
        base.zero_grad()
        for k in steps:
            x, y = batch(k)
            nn.functional.mse_loss(twin(x), y).backward()
        base.step()
    ours = [p.detach() for p in net.parameters()]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, twin.parameters()))


def test_a_flush_is_saved_with_the_rest():
    def make(net):
        groups = [{"params": list(net.parameters()), "period": 4}]
        return NestedOptimizer(groups, torch.optim.AdamW, "mean", lr=0.05)

    net, again = make_net(), make_net()
    optimizer = make(net)
    train(net, optimizer, range(2))
    optimizer.flush()
    train(net, optimizer, range(2, 3))
    loaded = make(again)
    again.load_state_dict(net.state_dict())
    loaded.load_state_dict(optimizer.state_dict())
    assert same(train(again, loaded, range(3, 9)), train(net, optimizer, range(3, 9)))


def test_gradients_are_put_back_and_kept_when_the_base_raises_in_a_flush():
    class Broken(torch.optim.SGD):
        is_broken = False

        def step(self, closure=None):
            if self.is_broken:
                raise RuntimeError("no")
            return super().step(closure)

    (p,) = weights()
    optimizer = NestedOptimizer([{"params": [p], "period": 3}], Broken, lr=1.0)
    run(optimizer, [3, 4])
    optimizer.base.is_broken = True
    with pytest.raises(RuntimeError, match="no"):
        optimizer.flush()
    assert p.grad == 4 and p == 0
    optimizer.base.is_broken = False
    optimizer.flush()
    assert p.item() == -7


def test_a_group_can_be_added_after_a_state_was_loaded():
    p, q, r = weights(3)
    optimizer = NestedOptimizer([{"params": [p], "period": 2}], torch.optim.SGD, lr=1.0)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group({"params": [q], "period": 3})
    optimizer.add_param_group({"params": [r]})
    assert len(optimizer.param_groups) == len(optimizer.base.param_groups) == 3
    run(optimizer, [1] * 6)
    assert (p.item(), q.item(), r.item()) == (-6, -6, -6)
    assert optimizer.moves() == {"group 0": 3, "group 1": 2, "group 2": 6}
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [r]})
    assert len(optimizer.param_groups) == len(optimizer.base.param_groups) == 3
