"""The models that tests go through, each made as make(dim, chunk)."""

import torch

from nested.models import Hope, ModelConfig, Transformer


def small(model, mixer="linear", **settings):
    def make(dim, chunk):
        periods = (chunk, 2 * chunk, 4 * chunk)
        sizes = {"vocab": 11, "dim": dim, "heads": 2, "chunk": chunk, "periods": periods}
        made = model(ModelConfig(mixer=mixer, **sizes, **settings))
        if "recall" in settings:
            torch.nn.init.normal_(made.blocks[0].recall.out.weight)  # which starts at zero
        return made

    return make


MODELS = {
    "transformer": small(Transformer),
    "attention": small(Hope, "attention"),
    "linear": small(Hope, "linear"),
    "linear, dot": small(Hope, "linear", objective="dot", layers=1),
    "linear, ngrams": small(Hope, "linear", ngrams=(3, 2), recall=(4, 2), layers=1),
    "linear, both": small(Hope, ("linear", "linear"), objective=("l2", "dot")),
    "titans": small(Hope, "titans", layers=1),
    "selfmod": small(Hope, "selfmod", layers=1),
}
