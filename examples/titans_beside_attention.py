"""Give somebody else's model a memory: a ``TitansMemory`` beside the attention of a frozen
``nn.TransformerEncoder``. (40 s)

Each of the encoder's two layers sees 12 tokens, the current one included. It reads 8 keys and their
values, and is asked for each value, up to 22 tokens later. First the encoder is trained alone. Then
its weights are frozen, and only the memories learn.
"""

import torch
from torch import Generator, nn

from nested.memory import TitansMemory
from nested.tasks import AssociativeRecall
from nested.tasks.text_task import scores

WIDTH, WINDOW, STEPS = 64, 12, (1200, 500)  # of the encoder alone, of its memories


class Reader(nn.Module):
    """Symbols (B, T) to logits (B, T, V): an encoder whose attention sees ``WINDOW`` symbols."""

    def __init__(self, vocab: int, longest: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab, WIDTH), nn.Embedding(longest, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, vocab)

    def forward(self, symbols):
        place = torch.arange(symbols.shape[1])
        back = place[:, None] - place
        hidden = (back < 0) | (back >= WINDOW)
        return self.head(self.encoder(self.embed(symbols) + self.place(place), mask=hidden))


def add_memories(encoder: nn.TransformerEncoder) -> nn.ModuleList:
    """Let a memory read beside each attention. What it reads is added; at first that is zero."""
    memories = nn.ModuleList()
    for layer in encoder.layers:
        memory, out = TitansMemory(WIDTH, chunk=16), nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.zeros_(out.weight)
        memories.append(nn.ModuleList([memory, out]))

        def add(attention, inputs, output, memory=memory, out=out):
            return output[0] + out(memory(inputs[0])[0]), output[1]

        layer.self_attn.register_forward_hook(add)
    return memories


def train(model, weights, task, steps, rate, generator):
    """Train ``weights`` of ``model``, and nothing else."""
    optimizer = torch.optim.AdamW(weights, rate)
    for _ in range(steps):
        symbols, answers = task.batch(generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(symbols).flatten(0, 1), answers.flatten()).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


@torch.no_grad()
def share_right(model, task):
    """The share of right answers in a batch that is drawn apart from training."""
    symbols, answers = task.batch(Generator().manual_seed(1), "query")
    return scores(model(symbols), answers)["accuracy"]


def main():
    torch.manual_seed(0)
    generator = Generator().manual_seed(0)
    family = AssociativeRecall(pairs=8, symbols=12, batch_size=32)
    task = family.sample(generator)
    model = Reader(family.vocab, 24)
    train(model, list(model.parameters()), task, STEPS[0], 1e-3, generator)
    print(f"the encoder alone: {share_right(model, task):.2f} of the answers are right")
    model.requires_grad_(False)
    memories = add_memories(model.encoder)
    print(f"with new memories: {share_right(model, task):.2f}")
    train(model, list(memories.parameters()), task, STEPS[1], 3e-3, generator)
    print(f"after training the memories alone: {share_right(model, task):.2f}")


if __name__ == "__main__":
    main()
