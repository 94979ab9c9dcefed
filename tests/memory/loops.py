"""Memories as loops over tokens, written from the equations, with autograd for inner gradients.

Each reads one sample, x (T, D), and makes its keys from ``before`` (T, D), which is x too if left
out. Of `nested` they take parameters and the bounds of gates, no code.
"""

import math

import torch
from torch.nn.functional import silu


def unit(x):
    return x / x.norm()


def gate(module, raw):
    """low^(1 - s) top^s, s = sigmoid(raw + offset + shift)."""
    low = module.top / math.exp(module.span)
    share = torch.sigmoid(raw + module.offset + module.shift)
    return low ** (1 - share) * module.top**share


def net(weights, z, skip=True, passed=None):
    """``passed`` is what the skip passes by, z itself if left out."""
    y = weights[0] @ silu(weights[1] @ z)
    return y + (z if passed is None else passed) if skip else y


def inner_gradient(loss_of, weights):
    """The gradient of loss_of(weights) with respect to these weights alone, in the graph."""
    copies = [w * 1 for w in weights]  # what loss_of closes over is a constant to it
    return torch.autograd.grad(loss_of(copies), copies, create_graph=True)


def damped(grads, error):
    """Gradients of a token's loss, shortened where a step of 1 would go past its target."""
    curvature = sum(g.square().sum() for g in grads) / error.square().sum()
    return [g / max(curvature, 1) for g in grads]


def hard_gate(module, raw):
    """top (3 s - 1/2) / 2, cut at 0 and top, s = sigmoid(3 (raw + offset) + shift)."""
    share = torch.sigmoid(3 * (raw + module.offset) + module.shift)
    smooth = (3 * share - 0.5) / 2
    return module.top * (straight_through(smooth) if module.training else smooth.clamp(0, 1))


def straight_through(x):
    """x cut at 0 and 1, with the slope of x."""
    return x + (x.clamp(0, 1) - x).detach()


def linear(memory, x, before=None):
    """Eq. 9 and 57, or 12-16, as gradient descent on the objective: P writes a token and head."""
    heads, writes = memory.heads, memory.products
    size = memory.dim // heads
    matrices, reads = [torch.zeros(size, size, dtype=x.dtype)] * heads, []
    if memory.objective == "l2":  # the first matrix is learned
        matrices = list(memory.matrix.view(heads, size, size))
    for token, earlier in zip(x, x if before is None else before):
        queries = (memory.query.weight @ token).view(heads, size)
        keys, values = (
            (part.weight @ seen).view(writes, heads, size)
            for part, seen in ((memory.key, earlier), (memory.value, token))
        )
        rates = hard_gate(memory.rate, memory.choose_rate.weight @ token).view(writes, heads)
        kept = 1 - gate(memory.forgetting, memory.choose_decay.weight @ token)
        for h in range(heads):
            matrix = kept[h] * matrices[h]
            for p in range(writes):
                k, v, matrix = unit(keys[p, h]), values[p, h], matrix.requires_grad_()

                def loss_of(w):
                    if memory.objective == "l2":
                        return 0.5 * (w[0] @ k - v).square().sum()
                    return -(w[0] @ k) @ v

                matrix = matrix - rates[p, h] * inner_gradient(loss_of, [matrix])[0]
            matrices[h] = matrix
        reads.append(torch.cat([m @ unit(q) for m, q in zip(matrices, queries)]))
    return torch.stack(reads)


def titans(memory, x, before=None):
    """Titans, eq. 8-14: W1 at the error of each token, W2 at the chunk's start with momentum."""
    heads = memory.heads
    parts = (memory.query, x), (memory.key, x if before is None else before), (memory.value, x)
    vectors = [[(part.weight @ token).chunk(heads) for token in seen] for part, seen in parts]
    rates = (x @ memory.choose_rate.weight.T).unbind()
    decays = [(memory.choose_decay.weight @ token).chunk(2) for token in x]
    reads = []
    for h in range(heads):
        first = [memory.w1.chunk(heads)[h], memory.w2.chunk(heads)[h]]
        tokens = zip(*([v[h] for v in part] for part in vectors), strict=True)
        gates = [
            (
                hard_gate(memory.rate, rate)[h],
                gate(memory.momentum, momentum)[h],
                1 - gate(memory.forgetting, forgetting)[h],
            )
            for rate, (momentum, forgetting) in zip(rates, decays, strict=True)
        ]
        reads.append(titans_head(first, tokens, gates, memory.chunk))
    return torch.cat(reads, dim=-1)


def titans_head(weights, tokens, gates, chunk):
    surprise, reads = torch.zeros_like(weights[1]), []
    for t, (vectors, (n, mu, kept)) in enumerate(zip(tokens, gates)):
        if t % chunk == 0:
            start = weights
        q, k, v = map(unit, vectors)
        units = silu(start[1] @ k)
        error = k + weights[0] @ units - v
        g1 = inner_gradient(lambda w: 0.5 * (k + w[0] @ units - v).square().sum(), weights[:1])[0]
        g2 = inner_gradient(lambda w: error @ (start[0] @ silu(w[0] @ k)), start[1:])[0]
        curvature = units.square().sum() + g2.square().sum() / error.square().sum()
        w1 = kept * weights[0] - n * g1 / units.square().sum().clamp(min=0.1)
        surprise = mu * surprise - (1 - mu) * n * (1 - n / 2) / chunk * g2 / max(curvature, 1)
        weights = [w1, kept * weights[1] + surprise]
        reads.append(net(weights, q))
    return torch.stack(reads)


def self_modifying(memory, x, before=None):
    """Self-modifying Titans, eq. 83-93, for each head with its part of x."""
    heads, reads, before = memory.heads, [], x if before is None else before
    inputs = zip(x.chunk(heads, dim=-1), before.chunk(heads, dim=-1))
    for h, part in enumerate(inputs):
        first = [w.chunk(heads)[h] for w in memory.w1]
        first += [memory.rate_gates[h], memory.decay_gates[h]]
        second = [w.chunk(heads)[h] for w in memory.w2.unbind()]
        queries = (x @ memory.query.weight.T).chunk(heads, dim=-1)[h]
        skips = [
            [(seen @ w.T).chunk(heads, dim=-1)[h] for w in part.weight.chunk(memory.products)]
            for part, seen in ((memory.skip_key, before), (memory.skip_value, x))
        ]
        shifts = memory.shifts.chunk(heads, dim=-1)[h] if memory.products > 1 else [0.0]
        reads.append(self_modifying_head(memory, first, second, part, queries, skips, shifts))
    return torch.cat(reads, dim=-1)


def self_modifying_head(memory, first, second, inputs, queries, skips, shifts):
    names = ("main", "key", "value", "rate", "forgetting")
    now, reads = {name: [first[i], second[i]] for i, name in enumerate(names)}, []
    for t, (token, earlier, query) in enumerate(zip(*inputs, map(unit, queries))):
        if t % memory.chunk == 0:
            start = dict(now)
        if memory.reads == "start":
            reads.append(net(start["main"], query))  # eq. 90
        a = 1.0
        for p, shift in enumerate(shifts):
            passed, seen = [part[p][t] for part in skips], (token + shift, earlier + shift)
            if p == 0:  # a token forgets once
                a = 1 - gate(memory.forgetting, net(start["forgetting"], seen[0], skip=False))
            now = self_modified(memory, start, now, seen, passed, a if p == 0 else 1.0)
        if memory.reads == "now":
            reads.append(net(now["main"], query))  # eq. 82
    return torch.stack(reads)


def self_modified(memory, start, now, seen, passed, a):
    """The five memories after one write."""
    token, earlier = seen
    k = unit(net(start["key"], earlier, passed=passed[0]))
    v = unit(net(start["value"], token, passed=passed[1]))
    m = hard_gate(memory.main_rate, net(start["rate"], token, skip=False))
    # what writes fully or not at all leaves the rules alone
    share = m / (1 if memory.objective == "l2" else 2)
    n = 4 * share * (1 - share) * gate(memory.rate, net(start["rate"], token, skip=False))
    after = {}
    for name, weights in now.items():
        skip = name not in ("rate", "forgetting")
        target = net(start[name], v, skip)  # its own: a constant to the inner gradient

        def loss_of(w):
            if memory.objective == "l2":
                return 0.5 * (net(w, k, skip) - target).square().sum()  # eq. 93
            return -(net(w, k, skip) * target).sum()  # eq. 92

        error = net(start[name], k, skip) - target if memory.objective == "l2" else target
        grads = damped(inner_gradient(loss_of, start[name]), error)
        after[name] = []
        inputs = unit(silu(start[name][1] @ k)), k
        for w, i, grad in zip(weights, inputs, grads):
            decay = a * torch.eye(len(i), dtype=i.dtype) - n * torch.outer(i, i)
            after[name].append(w @ decay - n * grad)
        if name == "main":  # its W1 writes at a rate of its own, each at its error in turn
            units = silu(start[name][1] @ k)
            w, size = weights[0], units.square().sum().clamp(min=0.1)
            decay = a * torch.eye(len(k), dtype=k.dtype) - m * torch.outer(units, units) / size
            error = k + w @ units - v if memory.objective == "l2" else -v
            after[name][0] = w @ decay - m * torch.outer(error, units) / size
    return after


def level(own, x):
    """One level of a continuum memory, eq. 71: what it reads, and its weights after each token."""
    weights, due, reads, after = [own.w1, own.w2], None, [], []
    for t, token in enumerate(x, start=1):
        reads.append(net(weights, own.query.weight @ token, skip=False))
        k, v = unit(own.key.weight @ token), unit(own.value.weight @ token)
        grads = inner_gradient(lambda w: 0.5 * (net(w, k, skip=False) - v).square().sum(), weights)
        grads = damped(grads, net(weights, k, skip=False) - v)
        due = grads if due is None else [a + b for a, b in zip(due, grads)]
        if t % own.chunk == 0:
            weights = [w - gate(own.rate, 0.0) * g for w, g in zip(weights, due)]
            due = None
        after.append(weights)
    return torch.stack(reads), after


def continuum(memory, x):
    """Eq. 70 and 74."""
    if memory.form == "sequential":
        for own in memory.levels:
            x = x + level(own, x)[0]
        return x
    reads = torch.stack([level(own, x)[0] for own in memory.levels])  # (L, T, D)
    shares = torch.softmax(x @ memory.choose.weight.T, dim=-1)  # (T, L)
    return x + sum(share[:, None] * read for share, read in zip(shares.T, reads))


def nested_continuum(memory, x):
    """Eq. 72, token by token."""
    levels, mixes, reads = memory.levels, memory.mixes, []

    def restart(i):
        return [
            a @ w + own for a, w, own in zip(mixes[i], weights[i + 1], (levels[i].w1, levels[i].w2))
        ]

    weights = [[own.w1, own.w2] for own in levels]
    for i in reversed(range(len(mixes))):
        weights[i] = restart(i)
    sums = [None] * len(levels)
    for t, token in enumerate(x, start=1):
        for i, own in enumerate(levels):
            k, v = unit(own.key.weight @ token), unit(own.value.weight @ token)
            grads = inner_gradient(
                lambda w: 0.5 * (net(w, k, skip=False) - v).square().sum(), weights[i]
            )
            grads = damped(grads, net(weights[i], k, skip=False) - v)
            sums[i] = grads if sums[i] is None else [a + b for a, b in zip(sums[i], grads)]
            token = token + net(weights[i], own.query.weight @ token, skip=False)
        reads.append(token)
        moved = [t % own.chunk == 0 for own in levels]
        for i, own in enumerate(levels):
            if moved[i]:
                weights[i] = [w - gate(own.rate, 0.0) * g for w, g in zip(weights[i], sums[i])]
                sums[i] = None
        for i in reversed(range(len(mixes))):
            if moved[i + 1]:
                weights[i] = restart(i)
    return torch.stack(reads)
