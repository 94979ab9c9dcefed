"""Wrong answers to hw1, a family."""

from tests.homework.mutants.mutant import Mutant

OWN, SIDES = "it is not a built-in family", "held-out tasks are never trained on"

WRAPPED = """from nested import Task, TaskFamily
from nested.tasks import Sinusoids


class MyFamily(TaskFamily):
    def __init__(self, inner=None):
        self.inner = inner or Sinusoids()

    def sample(self, generator):
        return MyTask(self.inner.sample(generator))

    def held_out(self):
        return MyFamily(self.inner.held_out())


class MyTask(Task):
    def __init__(self, inner):
        self.inner = inner

    def init(self, generator):
        return {f"my.{name}": -w for name, w in self.inner.init(generator).items()}

    def batch(self, generator, split="train"):
        x, y = self.inner.batch(generator, split)
        return x.flip(0), y.flip(0)

    def loss(self, params, batch):
        params = {name[3:]: w for name, w in params.items()}
        return self.inner.loss(params, batch)
"""
SCALED = WRAPPED.replace("x.flip(0), y.flip(0)", "3 * x + 1, y").replace(
    "self.inner.loss(params, batch)",
    "self.inner.loss(params, ((batch[0] - 1) / 3, batch[1]))",
)

MUTANTS = [
    Mutant(
        "hw1", "all-zero data", "return x, self.amplitude *", "return 0 * x, 0 *", "data are alive"
    ),
    Mutant(
        "hw1",
        "train and query mixed",
        'x = torch.where(side == (split == "query"), x, x + 0.1)',
        "x = torch.round(x)",
        "query data are never train data",
    ),
    Mutant(
        "hw1",
        "train and query mixed, beside a number that tells them apart",
        'x = torch.where(side == (split == "query"), x, x + 0.1)',
        (
            "x = torch.round(x)\n"
            "        return x, torch.sin(x), torch.tensor(float(split == 'query'))"
        ),
        "query data are never train data",
        ("x, y = batch", "x, y, _ = batch"),
    ),
    Mutant(
        "hw1",
        "draws by itself",
        "torch.rand(shape, generator=generator)",
        "torch.rand(shape)",
        "draws follow the seed and nothing else",
    ),
    Mutant(
        "hw1",
        "trains on held-out tasks",
        "return MyFamily(is_held_out=True)",
        "return self",
        "held-out tasks are never trained on",
    ),
    Mutant(
        "hw1",
        "the task is in the loss",
        "return ((guess - y) ** 2).mean()",
        "return ((guess - y) ** 2).mean() / self.amplitude",
        "all tasks share one scalar loss",
    ),
    Mutant(
        "hw1",
        "targets that follow from nothing",
        "self.amplitude * torch.sin(x + self.phase)",
        "self.amplitude * torch.randn(x.shape, generator=generator)",
        "it can be learned",
    ),
    Mutant(
        "hw1",
        "a loss that is a float",
        "return ((guess - y) ** 2).mean()",
        "return ((guess - y) ** 2).mean().item()",
        "all tasks share one scalar loss",
    ),
    Mutant(
        "hw1",
        "a built-in returned as one's own",
        "class MyFamily(TaskFamily):",
        (
            "from nested.tasks import SumRegression as MyFamily\n"
            "\n"
            "\n"
            "class Other(TaskFamily):"
        ),
        "it is not a built-in family",
    ),
    Mutant(
        "hw1",
        "labels that are noise, and a start that is worse than no guess",
        "self.amplitude * torch.sin(x + self.phase)",
        "self.amplitude * torch.randn(x.shape, generator=generator)",
        "it can be learned",
        ("draw(-0.2, 0.2, (1, HIDDEN), generator)", "draw(-2.0, 2.0, (1, HIDDEN), generator)"),
    ),
    Mutant(
        "hw1",
        "labels that are noise around a number",
        "self.amplitude * torch.sin(x + self.phase)",
        "self.amplitude * (2 + torch.randn(x.shape, generator=generator))",
        "it can be learned",
    ),
    Mutant(
        "hw1",
        "classes drawn at random",
        "return x, self.amplitude * torch.sin(x + self.phase)",
        "return x + self.amplitude, torch.randint(3, (ROWS,), generator=generator)",
        "it can be learned",
        (
            '        guess = hidden @ params["out.weight"].T + params["out.bias"]\n'
            "        return ((guess - y) ** 2).mean()",
            '        guess = 9 * (hidden @ params["out.weight"].T + params["out.bias"])\n'
            "        guess = torch.cat([guess, -guess, 0 * guess], dim=1)\n"
            "        return torch.nn.functional.cross_entropy(guess, y)",
        ),
    ),
    Mutant(
        "hw1",
        "query rows are train rows, and a millionth",
        'x = torch.where(side == (split == "query"), x, x + 0.1)',
        'x = x + 1e-6 * (split == "query")',
        "query data are never train data",
    ),
    Mutant(
        "hw1",
        "query rows are train rows, each with noise of its own",
        'x = torch.where(side == (split == "query"), x, x + 0.1)',
        'x = x + 1e-4 * (split == "query") * torch.randn(x.shape, generator=generator)',
        "query data are never train data",
    ),
    Mutant(
        "hw1",
        "query rows are train rows in another order, and a little more",
        'x = torch.where(side == (split == "query"), x, x + 0.1)',
        'x = x.flip(0) + 1e-5 if split == "query" else x',
        "query data are never train data",
    ),
    Mutant(
        "hw1",
        "four tasks for ever",
        "return MyTask(amplitude, draw(0.0, 2 * math.pi, (), generator).item())",
        "return MyTask(low + int(9 * amplitude) % 4 / 2, 1.0)",
        SIDES,
    ),
    Mutant(
        "hw1",
        "four tasks for ever, and a millionth",
        "return MyTask(amplitude, draw(0.0, 2 * math.pi, (), generator).item())",
        "return MyTask(low + int(9 * amplitude) % 4 / 2 + 1e-6 * amplitude, 1.0)",
        SIDES,
    ),
    Mutant("hw1", "a built-in with its rows turned around", "", WRAPPED, OWN),
    Mutant(
        "hw1",
        "a built-in with its tensors, columns and signs turned around",
        "",
        WRAPPED.replace("Sinusoids", "Quadratics").replace("x.flip(0), y.flip(0)", "-y, x"),
        OWN,
        ("self.inner.loss(params, batch)", "self.inner.loss(params, (batch[1], -batch[0]))"),
    ),
    Mutant(
        "hw1",
        "a built-in drawn from other seeds",
        "",
        WRAPPED.replace("x.flip(0), y.flip(0)", "x, y").replace(
            "self.inner.batch(generator, split)",
            "self.inner.batch(generator.manual_seed(generator.initial_seed() + 9), split)",
        ),
        OWN,
    ),
    Mutant("hw1", "a built-in in other units", "", SCALED, OWN),
    Mutant(
        "hw1",
        "a built-in copied out, in other units and another order",
        "        low, high = (2.5, 5.0) if self.is_held_out else (0.5, 2.5)\n",
        (
            "        from nested.tasks.family import draw_log_uniform, own_generator\n\n"
            "        generator = own_generator(generator, self.is_held_out)\n"
            "        amplitude = draw_log_uniform(0.3, 3.0, generator)\n"
            "        self.frequency = draw_log_uniform(0.3, 1.2, generator)\n"
            "        phase = torch.rand((), generator=generator).item()\n"
            "        return MyTask(amplitude, (self.frequency, phase, self.is_held_out))\n"
        ),
        OWN,
        (
            "        x = draw(-5.0, 5.0, (ROWS, 1), generator)\n",
            (
                "        from nested.tasks.family import own_generator\n\n"
                "        f, p, side = self.phase\n"
                "        own = own_generator(own_generator(generator, side), split == 'query')\n"
                "        x = 5 * (2 * torch.rand(32, 1, generator=own) - 1)\n"
                "        y = torch.sin(f * x + 2 * math.pi * p)\n"
                "        y = self.amplitude * (y + 0.05 * torch.randn(y.shape, generator=own))\n"
                "        return 1 - x.flip(0) / 2, y.flip(0)\n"
            ),
        ),
    ),
]
