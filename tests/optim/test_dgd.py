"""DGD against the minimiser that it claims to be, found by least squares."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import Generator, nn

from nested.optim import DGD
from nested.optim.dgd import forget


def rows_and_targets(layer, inputs, loss_of):
    """X (N, d) and dL/dy (N, o), by autograd alone."""
    outputs = layer(inputs)
    (d_outputs,) = torch.autograd.grad(loss_of(outputs), outputs)
    return inputs.reshape(-1, inputs.shape[-1]), d_outputs.reshape(-1, d_outputs.shape[-1])


def least_squares(weight, rows, values, lr):
    """argmin_W 1/N sum_i 1/2 |W x_i - u_i|^2 + 1/(2n) |W - W_t|^2, as one stacked system."""
    count, width = rows.shape
    a = torch.cat([rows / count**0.5, torch.eye(width, dtype=rows.dtype) / lr**0.5])
    b = torch.cat([values / count**0.5, weight.T / lr**0.5])
    return torch.linalg.lstsq(a, b).solution.T


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def linear(width=6, out=4, bias=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(width, out, bias=bias, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 6), (3, 6), (40, 6), (5, 7, 6)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_is_the_exact_minimiser(shape, reduction):
    layer, inputs, targets, lr = linear(), draw(*shape), draw(*shape[:-1], 4, seed=1), 0.7

    def loss_of(outputs):
        each = (outputs - targets).square().sum(-1).flatten()
        return each.mean() if reduction == "mean" else each.sum()

    rows, d_outputs = rows_and_targets(layer, inputs, loss_of)
    values = -d_outputs * (len(rows) if reduction == "mean" else 1)
    expected = least_squares(layer.weight.detach(), rows, values, lr)
    optimizer = DGD(layer.parameters(), lr, module=layer, reduction=reduction)
    loss_of(layer(inputs)).backward()
    optimizer.step()
    assert torch.allclose(layer.weight, expected, rtol=0, atol=1e-8)


def test_one_input_of_norm_one_is_equation_57_and_not_gradient_descent():
    layer, lr = linear(), 0.5
    x = nn.functional.normalize(draw(1, 6), dim=-1)
    before = layer.weight.detach().clone()
    optimizer = DGD(layer.parameters(), lr, module=layer)
    (layer(x) ** 3).sum().backward()
    grad = layer.weight.grad.clone()
    optimizer.step()
    rate = lr / (1 + lr)
    sgd = before - rate * grad
    # W (I - n' x x^T) - n' g: off gradient descent at n' by n' W x x^T
    assert torch.allclose(layer.weight, sgd - rate * before @ x.T @ x, rtol=0, atol=1e-12)
    assert (layer.weight - sgd).abs().max() > 0.01


def test_gradients_of_two_backward_passes_are_one_batch():
    layer, twin = linear(), linear()
    inputs, targets = draw(10, 6), draw(10, 4, seed=1)
    for net, parts in ((layer, [slice(0, 5), slice(5, 10)]), (twin, [slice(0, 10)])):
        optimizer = DGD(net.parameters(), 0.3, module=net)
        for part in parts:
            (nn.functional.mse_loss(net(inputs[part]), targets[part]) / len(parts)).backward()
        optimizer.step()
    assert torch.allclose(layer.weight, twin.weight, rtol=0, atol=1e-12)


def test_a_layer_used_twice_forgets_along_the_rows_of_both_uses():
    layer = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    inputs, lr = draw(3, 4), 0.4
    before = layer.weight.detach().clone()
    middle = layer(inputs)
    optimizer = DGD(layer.parameters(), lr, module=layer)
    layer(torch.tanh(layer(inputs))).square().mean().backward()
    rows = torch.cat([torch.tanh(middle), inputs]).detach()
    eye = torch.eye(4, dtype=torch.float64)
    wanted = (before - lr * layer.weight.grad) @ torch.inverse(eye + lr * rows.T @ rows / 6)
    optimizer.step()
    assert torch.allclose(layer.weight, wanted, rtol=0, atol=1e-12)


def one_step(prepare=lambda net, inputs, loss: None):
    net = linear()
    optimizer = DGD(net.parameters(), 0.3, module=net)
    inputs = draw(5, 6)
    prepare(net, inputs, lambda x: net(x).square().mean())
    net(inputs).square().mean().backward()
    optimizer.step()
    return net.weight.detach()


def test_rows_whose_gradient_is_not_there_do_not_count():
    expected = one_step()

    def evaluated(net, inputs, loss):
        with torch.no_grad():
            loss(3 * inputs)
        loss(5 * inputs)  # no backward pass

    def asked_for_the_inputs_gradient(net, inputs, loss):
        point = inputs.clone().requires_grad_()
        torch.autograd.grad(loss(point), point)

    def a_batch_thrown_away(net, inputs, loss):
        loss(7 * inputs).backward()
        net.zero_grad()  # the module's, not the optimizer's

    for prepare in (evaluated, asked_for_the_inputs_gradient, a_batch_thrown_away):
        assert torch.equal(one_step(prepare), expected), prepare.__name__


def test_clipped_gradients_count_as_they_are():
    net, lr = linear(), 0.3
    inputs, before = draw(5, 6), net.weight.detach().clone()
    optimizer = DGD(net.parameters(), lr, module=net)
    net(inputs).pow(4).sum().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    kernel = torch.eye(6, dtype=torch.float64) + lr * inputs.T @ inputs / 5
    expected = (before - lr * net.weight.grad) @ torch.inverse(kernel)
    optimizer.step()
    assert torch.allclose(net.weight, expected, rtol=0, atol=1e-12)


def test_other_parameters_descend_plainly_and_are_named_once():
    net = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    optimizer = DGD(net.parameters(), 0.1, module=net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.warns(UserWarning, match="no inputs of 1.weight, 1.bias: plain") as said:
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(5, 6)).square().mean().backward()
            grads = {name: p.grad.clone() for name, p in net.named_parameters()}
            optimizer.step()
            for name in ("0.bias", "1.weight", "1.bias", "2.bias"):
                now = net.get_parameter(name).detach().clone()
                assert torch.allclose(now, before[name] - 0.1 * grads[name])
            before = {name: p.detach().clone() for name, p in net.named_parameters()}
    assert len(said) == 1


def test_biases_of_linear_layers_need_no_warning():
    net = nn.Linear(6, 4)
    optimizer = DGD(net.parameters(), 0.1, module=net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(torch.randn(5, 6)).square().mean().backward()
        optimizer.step()


def test_a_second_step_without_a_backward_pass_says_what_it_is():
    net = linear()
    optimizer = DGD(net.parameters(), 0.1, module=net)
    net(draw(5, 6)).square().mean().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match="no inputs of weight"):
        optimizer.step()


def test_copies_of_the_module_are_their_own_and_the_optimizer_can_go():
    net = linear()
    optimizer = DGD(net.parameters(), 0.1, module=net)
    copy.deepcopy(net)(draw(5, 6)).square().mean().backward()
    assert not any(optimizer.rows.values())
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(optimizer)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    net(draw(5, 6)).square().mean().backward()  # the hooks that are left do nothing


def test_half_precision_is_solved_in_single():
    net, wide = nn.Linear(6, 4, bias=False), nn.Linear(6, 4, bias=False)
    wide.load_state_dict(net.to(torch.bfloat16).state_dict())
    inputs = draw(5, 6).bfloat16()
    for layer, x in ((net, inputs), (wide, inputs.float())):
        optimizer = DGD(layer.parameters(), 0.3, module=layer)
        layer(x).square().mean().backward()
        optimizer.step()
    assert net.weight.dtype == torch.bfloat16
    assert torch.allclose(net.weight.float(), wide.weight, atol=0.01)


def test_wrong_input_is_refused_in_one_sentence():
    net = linear()
    with pytest.raises(ValueError, match="reduction is one of"):
        DGD(net.parameters(), 0.1, module=net, reduction="none")
    with pytest.raises(ValueError, match="lr is 0 or more, and finite, but got -1"):
        DGD(net.parameters(), -1, module=net)
    with pytest.raises(ValueError, match="lr is 0 or more, and finite, but got nan"):
        DGD(net.parameters(), float("nan"), module=net)
    with pytest.raises(ValueError, match="lazy parameters: run a batch through it first"):
        DGD([torch.ones(2)], 0.1, module=nn.LazyLinear(3))
    with pytest.raises(ValueError, match="DGD needs a module, to read the inputs"):
        DGD(net.parameters(), 0.1, module=net.weight)


@pytest.mark.parametrize("rows, lr", [(64, 10.0), (1, 10.0), (2, 1e6)])
def test_large_inputs_that_depend_on_each_other_are_solved_exactly(rows, lr):
    """Pixels from 0 to 255, each image many times: float32 alone would not do."""
    pixels = torch.randint(256, (16, 40), generator=Generator().manual_seed(0)).float()
    layer, inputs = linear(40, 3).float(), pixels.repeat(rows, 1)
    optimizer = DGD(layer.parameters(), lr, module=layer)
    before = layer.weight.detach().double()
    layer(inputs).mean().backward()
    start, x = before - lr * layer.weight.grad.double(), inputs.double()
    expected = least_squares(start, x, torch.zeros(len(x), 3).double(), lr)
    optimizer.step()
    assert torch.allclose(layer.weight.double(), expected, rtol=1e-3, atol=1e-4)


def test_a_batch_buffer_that_is_used_again_does_not_change_what_was_seen():
    layer, twin = linear(), linear()
    batches, buffer = draw(3, 5, 6), torch.empty(5, 6).double()
    for net, reuse in ((layer, True), (twin, False)):
        optimizer = DGD(net.parameters(), 0.3, module=net)
        for batch in batches:
            (net(buffer.copy_(batch) if reuse else batch).square().mean() / 3).backward()
        optimizer.step()
    assert torch.equal(layer.weight, twin.weight)


def test_layers_unfrozen_later_are_seen_and_others_leave_nothing_behind():
    net = nn.Sequential(linear(6, 6), linear(6, 6), linear(6, 4))
    net[1].requires_grad_(False)
    optimizer = DGD([net[0].weight, net[1].weight], 0.1, module=net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            optimizer.zero_grad()
            net(draw(5, 6)).square().mean().backward()
            optimizer.step()
        assert not optimizer.rows and not optimizer.pending
        net[1].requires_grad_(True)
        net(draw(5, 6)).square().mean().backward()
        assert set(optimizer.rows) == {net[0].weight, net[1].weight}
        optimizer.step()


def test_layers_that_are_called_in_other_ways():
    layer = linear()
    optimizer = DGD(layer.parameters(), 0.3, module=layer)
    layer(input=draw(5, 6)).square().mean().backward()
    optimizer.step()
    assert torch.equal(layer.weight, one_step())
    before = layer.weight.detach().clone()
    optimizer.zero_grad()
    layer(draw(0, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight, before)
    normed = nn.utils.parametrizations.weight_norm(linear())
    optimizer = DGD(normed.parameters(), 0.1, module=normed)
    normed(draw(5, 6)).square().mean().backward()
    with pytest.warns(UserWarning, match="no inputs of parametrizations.weight.original0"):
        optimizer.step()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_two_backward_passes_through_one_forward_pass_count_its_rows_once(reduction):
    layer, inputs, lr = linear(), draw(5, 6), 0.3
    before = layer.weight.detach().clone()
    optimizer = DGD(layer.parameters(), lr, module=layer, reduction=reduction)
    outputs = layer(inputs)
    (outputs**2).sum().backward(retain_graph=True)
    (outputs**3).sum().backward()
    rate = lr / 5 if reduction == "sum" else lr
    kernel = torch.eye(6, dtype=torch.float64) + lr / 5 * inputs.T @ inputs
    expected = (before - rate * layer.weight.grad) @ torch.inverse(kernel)
    optimizer.step()
    assert torch.allclose(layer.weight, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("large", [1e3, 1e6, 1.7e9])
def test_a_feature_much_larger_than_the_others_leaves_them_exact(rows, large):
    weight, inputs, lr = draw(3, 12), draw(rows, 12, seed=1), 0.7
    inputs[:, 0] += large
    expected = least_squares(weight, inputs, torch.zeros(rows, 3).double(), lr)
    assert torch.allclose(forget(weight, inputs, lr), expected, rtol=0, atol=1e-8)


def test_a_rate_without_bound_still_gives_the_minimiser():
    weight, inputs = draw(3, 6), draw(1, 6, seed=1).repeat(3, 1)
    x = inputs[0] / inputs[0].norm()
    expected = weight - weight @ torch.outer(x, x)  # nothing is left along the input
    assert torch.allclose(forget(weight, inputs, 1e18), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rows, width", [(3, 500), (500, 3)])
def test_it_is_solved_in_the_smaller_dimension(rows, width, monkeypatch):
    solved, solve = [], torch.linalg.cholesky_ex
    monkeypatch.setattr(
        torch.linalg, "cholesky_ex", lambda gram: solved.append(gram.shape) or solve(gram)
    )
    forget(draw(2, width), draw(rows, width), 0.1)
    assert solved == [(3, 3)]


def test_layers_of_groups_added_later_are_watched():
    net = nn.Sequential(linear(6, 6), linear(6, 4))
    optimizer = DGD(net[0].parameters(), 0.1, module=net)
    optimizer.add_param_group({"params": list(net[1].parameters())})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(draw(5, 6)).square().mean().backward()
        optimizer.step()


def test_zero_grad_drops_rows_also_where_it_leaves_zeros():
    expected = one_step()

    def thrown_away(net, inputs, loss):
        optimizer = DGD(net.parameters(), 0.3, module=net)
        loss(7 * inputs).backward()
        optimizer.zero_grad(set_to_none=False)
        assert not optimizer.rows and not optimizer.pending
        loss(inputs).backward()
        optimizer.step()
        assert torch.allclose(net.weight, expected, rtol=0, atol=1e-12)

    net = linear()
    thrown_away(net, draw(5, 6), lambda x: net(x).square().mean())


def test_layers_and_batches_of_nothing():
    layer = nn.Linear(0, 3)
    optimizer = DGD(layer.parameters(), 0.1, module=layer)
    layer(torch.randn(4, 0)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    layer = linear()
    before = layer.weight.detach().clone()
    optimizer = DGD(layer.parameters(), 0.1, module=layer, reduction="sum")
    layer(draw(0, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight, before)
    layer(draw(6)).sum().backward()  # one input without a batch
    assert next(iter(optimizer.rows[layer.weight].values())).shape == (1, 6)


def hooks_of(net):
    hooks = [h for layer in net.modules() for h in layer._forward_hooks.values()]
    return hooks + [h for p in net.parameters() for h in (p._post_accumulate_grad_hooks or {})]


def test_a_net_whose_optimizer_is_gone_keeps_no_hooks_and_pickles(tmp_path):
    net = nn.Sequential(linear(6, 6), nn.Tanh(), linear(6, 4))
    optimizer = DGD(net.parameters(), 0.1, module=net)
    net(draw(5, 6)).square().mean().backward()
    optimizer.step()
    assert hooks_of(net)
    del optimizer
    gc.collect()
    assert not hooks_of(net)
    torch.save(net, tmp_path / "net")
    again = torch.load(tmp_path / "net", weights_only=False)
    assert torch.equal(again(draw(5, 6)), net(draw(5, 6))) and not hooks_of(again)


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_a_net_with_an_optimizer_is_copied_without_it(how, tmp_path):
    net = nn.Sequential(linear(6, 6), nn.Tanh(), linear(6, 4))
    optimizer = DGD(net.parameters(), 0.1, module=net)
    net(draw(5, 6)).square().mean().backward()
    if how == "pickle":
        torch.save(net, tmp_path / "net")
        again = torch.load(tmp_path / "net", weights_only=False)
    else:
        again = copy.deepcopy(net)
    rows = {p: list(kept.values()) for p, kept in optimizer.rows.items()}
    again(draw(5, 6)).square().mean().backward()
    assert {p: list(kept.values()) for p, kept in optimizer.rows.items()} == rows
    other = DGD(again.parameters(), 0.1, module=again)
    for one, its in ((net, optimizer), (again, other)):
        its.zero_grad()
        one(draw(5, 6)).square().mean().backward()
        its.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters()))


def test_two_optimizers_of_one_net_do_not_take_each_others_hooks():
    net = nn.Sequential(linear(6, 6), linear(6, 4))
    first = DGD(net[0].parameters(), 0.1, module=net)
    second = DGD(net[1].parameters(), 0.1, module=net)
    net(draw(5, 6)).square().mean().backward()
    assert set(first.rows) == {net[0].weight} and set(second.rows) == {net[1].weight}
    del first
    gc.collect()
    second.zero_grad()
    net(draw(5, 6)).square().mean().backward()
    assert set(second.rows) == {net[1].weight}


def compiled(net, how):
    if how == "in place":
        net.compile(backend="eager")
        return net
    if how == "a part":
        net[0].compile(backend="eager")
        return net
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize("how", ["a wrapper", "in place", "a part"])
def test_a_compiled_module_is_refused(how):
    net = nn.Sequential(linear(6, 6), linear(6, 4))
    with pytest.raises(ValueError, match="a compiled module may skip.* compile the module after"):
        DGD(net.parameters(), 0.1, module=compiled(net, how))


def test_a_net_that_is_compiled_after_its_optimizer_was_made_is_seen():
    torch._dynamo.reset()
    runs = []
    for is_compiled in (False, True):
        net = nn.Sequential(linear(6, 6), nn.Tanh(), linear(6, 4))
        optimizer = DGD(net.parameters(), 0.1, module=net)
        call = torch.compile(net, backend="eager") if is_compiled else net
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "DGD")
            for _ in range(3):
                optimizer.zero_grad()
                call(draw(5, 6)).square().mean().backward()
                optimizer.step()
        runs.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*runs))


def test_compiling_to_one_graph_says_what_to_do():
    torch._dynamo.reset()
    net = nn.Sequential(linear(6, 6), linear(6, 4))
    optimizer = DGD(net.parameters(), 0.1, module=net)
    with pytest.raises(Exception, match="compile without fullgraph=True"):
        torch.compile(net, backend="eager", fullgraph=True)(draw(5, 6))
    assert not optimizer.rows


def test_a_net_that_was_compiled_and_run_before_its_optimizer_is_told():
    torch._dynamo.reset()
    net = nn.Sequential(linear(6, 6), linear(6, 4))
    call = torch.compile(net, backend="eager")
    call(draw(5, 6)).sum().backward()
    optimizer = DGD(net.parameters(), 0.1, module=net)
    optimizer.zero_grad()
    call(draw(5, 6)).square().mean().backward()
    with pytest.warns(UserWarning, match="compiled and run before"):
        optimizer.step()


SCALES = [(5, 1.0), (5, 1e3), (5, 1e9), (40, 1e3), (40, 1e9)]


@pytest.mark.parametrize("rows, large", SCALES)
@pytest.mark.parametrize("is_offset", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_in_float32_it_is_exact_for_features_of_any_size(rows, large, is_offset, seed):
    weight, inputs, lr = draw(3, 12, seed=seed).float(), draw(rows, 12, seed=seed + 9).float(), 0.7
    inputs[:, 0] = inputs[:, 0] + large if is_offset else inputs[:, 0] * large
    gram = torch.eye(12).double() + lr / rows * inputs.double().T @ inputs.double()
    expected = weight.double() @ torch.inverse(gram)
    found = forget(weight, inputs, lr)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype, within", [(torch.float32, 1e-5), (torch.float64, 1e-8)])
@pytest.mark.parametrize("lr", [0.1, 10.0, 1e4])
def test_inputs_of_low_rank_with_a_little_noise(lr, dtype, within):
    inputs = draw(30, 3) @ draw(3, 12, seed=1) + 1e-3 * draw(30, 12, seed=2)
    weight, inputs = draw(3, 12, seed=3).to(dtype), inputs.to(dtype)
    expected = least_squares(weight.double(), inputs.double(), torch.zeros(30, 3).double(), lr)
    found = forget(weight, inputs, lr)
    assert torch.allclose(found.double(), expected, rtol=0, atol=within)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_that_are_no_numbers_give_no_numbers(dtype):
    for wrong in (float("nan"), float("inf")):
        inputs = draw(4, 6).to(dtype)
        inputs[1, 2] = wrong
        assert forget(draw(3, 6).to(dtype), inputs, 0.1).isnan().any()
