"""Wrong answers to hw0, an unroll by hand."""

from tests.homework.mutants.mutant import IN_PLACE, LR, MOMENTUM, VALUES, WEIGHTS, Mutant

MUTANTS = [
    Mutant("hw0", "detached state", "momentum * v + g", "momentum * v.detach() + g", MOMENTUM),
    Mutant("hw0", "lr as a float", "w - lr * buffer", "w - lr.item() * buffer", LR),
    Mutant("hw0", "no create_graph", "create_graph=True", "retain_graph=True", WEIGHTS),
    Mutant(
        "hw0",
        "in-place update",
        "        params = {name: w - lr * buffer[name] for name, w in params.items()}\n",
        (
            "        with torch.no_grad():\n"
            "            for name, w in params.items():\n"
            "                w -= lr * buffer[name]\n"
        ),
        IN_PLACE,
    ),
    Mutant(
        "hw0",
        "detached weights",
        "lr * buffer[name] for",
        "lr * buffer[name].detach() for",
        WEIGHTS,
    ),
    Mutant(
        "hw0",
        "returns the old weights",
        "return params, torch",
        "return start, torch",
        VALUES,
        ("    losses = []\n", "    losses, start = [], params\n"),
    ),
    Mutant(
        "hw0",
        "the first batch every time",
        "loss = loss_fn(params, batch)",
        "loss = loss_fn(params, batches[0])",
        VALUES,
    ),
    Mutant(
        "hw0",
        "uses the future",
        "loss = loss_fn(params, batch)",
        "loss = loss_fn(params, batches[-1])",
        VALUES,
    ),
]
