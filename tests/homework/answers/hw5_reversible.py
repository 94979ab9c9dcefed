"""A right answer to hw5: algorithm 2 of Maclaurin et al., step by step backwards."""

import torch


def reversible_unroll(loss_fn, params, batches, lr, momentum):
    names = list(params)
    out = _Backwards.apply(loss_fn, names, batches, lr, momentum, *params.values())
    return dict(zip(names, out[1:])), out[0]


def gradient(loss_fn, names, weights, batch, create_graph=False):
    with torch.enable_grad():
        points = [w.detach().requires_grad_() for w in weights]
        loss = loss_fn(dict(zip(names, points)), batch)
        grads = torch.autograd.grad(loss, points, create_graph=create_graph, materialize_grads=True)
    return loss.detach(), points, grads


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss_fn, names, batches, lr, momentum, *weights):
        weights = [w.detach() for w in weights]
        buffer = [torch.zeros_like(w) for w in weights]
        losses = []
        for batch in batches:
            loss, _, grads = gradient(loss_fn, names, weights, batch)
            buffer = [momentum * v + g for v, g in zip(buffer, grads)]
            weights = [w - lr * v for w, v in zip(weights, buffer)]
            losses.append(loss)
        ctx.loss_fn, ctx.names, ctx.batches = loss_fn, names, batches
        ctx.save_for_backward(lr, momentum, *weights, *buffer)
        return torch.stack(losses), *weights

    @staticmethod
    def backward(ctx, d_losses, *d_weights):
        lr, momentum, *saved = ctx.saved_tensors
        count = len(d_weights)
        weights, buffer = saved[:count], saved[count:]
        dw, dv = list(d_weights), [torch.zeros_like(v) for v in buffer]
        d_lr, d_momentum = torch.zeros_like(lr), torch.zeros_like(momentum)
        for batch, dl in zip(reversed(ctx.batches), reversed(d_losses)):
            dv = [b - lr * a for a, b in zip(dw, dv)]
            d_lr = d_lr - sum((a * v).sum() for a, v in zip(dw, buffer))
            weights = [w + lr * v for w, v in zip(weights, buffer)]
            _, points, grads = gradient(ctx.loss_fn, ctx.names, weights, batch, create_graph=True)
            hessian_dv = torch.autograd.grad(grads, points, dv, materialize_grads=True)
            grads = [g.detach() for g in grads]
            buffer = [(v - g) / momentum for v, g in zip(buffer, grads)]
            d_momentum = d_momentum + sum((b * v).sum() for b, v in zip(dv, buffer))
            dw = [a + h + dl * g for a, h, g in zip(dw, hessian_dv, grads)]
            dv = [momentum * b for b in dv]
        return None, None, None, d_lr, d_momentum, *dw
