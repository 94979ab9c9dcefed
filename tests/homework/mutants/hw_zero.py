"""Wrong answers to hw_zero, from zero to unroll."""

from tests.homework.mutants.mutant import Mutant

GRADIENT = "1 gradient: it can be differentiated again"
STEP, SLOPES = "2 step: it moves as torch.optim.SGD does", "2 step: its derivatives are right"
VALUES = "3 unroll: it trains as torch.optim.SGD does"
WEIGHTS = "3 unroll: the hypergradient of the initial weights"
ADAM = "5 meta_train: Adam follows the hypergradient"
MOVE = "params, state, signals = rule(params, grads, state, loss)"
LOOP = "    for loss_fn, params, batches in tasks:\n"
NEW = "        optimizer = torch.optim.Adam(rule.parameters(), lr=lr)\n"

ROWS = [  # fault, what the right answer says, what this one says, the check, what is added
    ("no create_graph", "create_graph=True", "retain_graph=True", GRADIENT),
    (
        "the loss of a copy",
        "    loss = loss_fn(params, batch)\n",
        "    params = {name: w.detach().requires_grad_() for name, w in params.items()}\n"
        "    loss = loss_fn(params, batch)\n",
        GRADIENT,
    ),
    (
        "gradients in another order",
        "return loss, dict(zip(params, grads))",
        "return loss, dict(zip(reversed(list(params)), grads))",
        "1 gradient: it is PyTorch's",
    ),
    ("moves by the gradient alone", "lr * buffer[name]", "lr * grads[name]", STEP),
    ("dampens the gradient", "buffer[name] + g for", "buffer[name] + (1 - momentum) * g for", STEP),
    ("detached buffer", "momentum * buffer[name]", "momentum * buffer[name].detach()", SLOPES),
    ("lr as a float", "w - lr * buffer", "w - float(lr) * buffer", SLOPES),
    (
        "in-place update",
        "w - lr * buffer[name]",
        "w.sub_(lr * buffer[name])",
        "2 step: nothing passed in is changed",
    ),
    (
        "the first batch every time",
        "(loss_fn, params, batch)\n ",
        "(loss_fn, params, batches[0])\n ",
        VALUES,
    ),
    ("forgets the state", MOVE, MOVE.replace("state, loss", "rule.init(params), loss"), VALUES),
    (
        "losses after the moves",
        "        losses.append(loss)\n",
        "        losses.append(loss_fn(params, batch))\n",
        VALUES,
    ),
    (
        "cuts the graph between steps",
        MOVE,
        f"{MOVE}\n        params = {{n: w.detach().requires_grad_() for n, w in params.items()}}",
        WEIGHTS,
    ),
    (
        "cuts the state between steps",
        MOVE,
        f"{MOVE}\n        state = {{n: v.detach() for n, v in state.items()}}",
        "3 unroll: the hypergradient of the momentum",
    ),
    (
        "sees a detached loss",
        "torch.log(loss.abs()",
        "torch.log(loss.detach().abs()",
        "4 MetaOptimizer: the hypergradient is right",
    ),
    ("sees nothing", "seen = torch", "seen = 0 * torch", "4 MetaOptimizer: it sees the loss"),
    (
        "signals without bounds",
        "torch.sigmoid(self.net(seen.reshape(1)))",
        "1000 * self.net(seen.reshape(1)).abs()",
        "4 MetaOptimizer: its signals stay in bounds",
    ),
    (
        "shows another rate than it takes",
        '{"lr": lr,',
        '{"lr": 2 * lr,',
        "4 MetaOptimizer: it moves by its signals",
    ),
    ("gradients pile up", "        optimizer.zero_grad()\n", "", ADAM),
    ("a new Adam at each meta-step", LOOP, LOOP + NEW, ADAM),
    ("SGD for Adam", "torch.optim.Adam(", "torch.optim.SGD(", ADAM),
    ("never moves", "        optimizer.step()\n", "", ADAM),
    (
        "scores the last loss alone",
        "losses.mean()",
        "losses[-1]",
        "5 meta_train: it returns the mean losses",
    ),
    (
        "climbs",
        "meta_loss.backward()",
        "(-meta_loss).backward()",
        "5 meta_train: the rule trains nets it never met",
    ),
    (
        "an unroll beside the one asked for",
        "_, losses = unroll(",
        "_, losses = again(",
        "each task uses the one before",
        ("class MetaOptimizer(", "again = unroll\n\n\nclass MetaOptimizer("),
    ),
    (
        "takes the package's own",
        "from nested import Step",
        "from nested import MetaOptimizer as Ready, Step",
        "it is written from zero",
    ),
]
MUTANTS = [Mutant("hw_zero", *row) for row in ROWS]
