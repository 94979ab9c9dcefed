"""Classify characters, drawn in the fonts that come with matplotlib.

Letters: B rows of a batch, F fonts. Source: few-shot characters after Lake et al. 2015 (Omniglot);
the DejaVu fonts, by way of matplotlib, are free to use (Bitstream Vera licence).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch
from nested.support.checks import check_counts
from nested.tasks.family import (
    NetTask,
    TwoSided,
    check_noise,
    check_split,
    draw_normal,
    own_generator,
)

# without pairs that look alike in any of the fonts, such as I and l, or 3 and З
CHARACTERS = (
    "ABCDEFGHJKLMNPQRSTUVWXYZabdefghijkmnpqrtuy123456789&%$#@?!"
    "αβγδεζηθλμξπρστφχψωΓΔΘΛΞΠΣΦΨΩБДЖИЛЦЧШЩЫЭЮЯбвгджклмнфцчшщъыьэюя"
)
FONTS = tuple(
    f"DejaVu{name}.ttf"
    for name in "Sans Sans-Bold Sans-Oblique SansMono SansMono-Bold SansMono-Oblique Serif"
    " Serif-Bold Serif-Italic".split()
)
SIDE, SHIFTS = 12, 3  # pixels; positions of a glyph along either axis
POINTS = 9  # size of the font


@cache
def draw_glyphs() -> Tensor:
    """Return the characters in all F fonts, (characters, F, 14, 14) float32 in [0, 1], centred."""
    import matplotlib  # here, as other families do not need it
    from matplotlib.ft2font import FT2Font

    frame = SIDE + SHIFTS - 1
    images = numpy.zeros((len(CHARACTERS), len(FONTS), frame, frame), dtype=numpy.float32)
    for f, name in enumerate(FONTS):
        font = FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)))
        font.set_size(POINTS, 72)
        for c, character in enumerate(CHARACTERS):
            font.set_text(character)
            font.draw_glyphs_to_bitmap()
            drawn = numpy.asarray(font.get_image())[:frame, :frame] / 255
            top, left = (frame - drawn.shape[0]) // 2, (frame - drawn.shape[1]) // 2
            images[c, f, top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return torch.from_numpy(images)


class Glyphs(TwoSided):
    """Classify ``ways`` characters with a small net: 144 inputs, ``hidden`` units, ``ways``
    classes.

    Letters: B ``batch_size``, or ``query_size`` for queries. Each task draws its characters.
    Batches are (images (B, 144), labels (B,) int64); the loss is cross entropy, in nats. An image
    shows a character in any font, at any of nine places, with noise of standard deviation
    ``noise``. Meta-training and held-out tasks share no character. Every third font is kept for
    queries. ``settings``: see ``TwoSided``. Raises ``ValueError`` for sizes under 1, more ways than
    characters, or a negative noise.
    """

    def __init__(
        self,
        ways: int = 10,
        batch_size: int = 32,
        query_size: int = 64,
        hidden: int = 32,
        noise: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(ways=ways, batch_size=batch_size, query_size=query_size, hidden=hidden)
        check_noise(noise)
        if ways > len(CHARACTERS) // 2:
            raise ValueError(f"ways is at most {len(CHARACTERS) // 2}, but got {ways}")
        self.ways, self.hidden, self.noise = ways, hidden, noise
        self.sizes = {"train": batch_size, "query": query_size}
        layers = nn.Linear(SIDE * SIDE, hidden), nn.ReLU(), nn.Linear(hidden, ways)
        self.set_net(nn.Sequential(*layers), nn.functional.cross_entropy)

    @property
    def pool(self) -> Tensor:
        """The characters of this side, (N, F, 14, 14)."""
        return draw_glyphs()[int(self.is_held_out) :: 2]

    def sample(self, generator: Generator) -> GlyphsTask:
        return GlyphsTask(self, torch.randperm(len(self.pool), generator=generator)[: self.ways])


@dataclass(frozen=True)
class GlyphsTask(NetTask):
    """A task of ``Glyphs``: its ``characters`` (ways,), as rows of the family's pool."""

    family: Glyphs
    characters: Tensor

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family, is_query = self.family, split == "query"
        # one generator for each side and split, so that noise is not repeated either
        generator = own_generator(own_generator(generator, family.is_held_out), is_query)
        fonts = torch.tensor([f for f in range(len(FONTS)) if (f % 3 == 2) == is_query])
        shape = (family.sizes[split],)
        labels = torch.randint(family.ways, shape, generator=generator)
        drawn = fonts[torch.randint(len(fonts), shape, generator=generator)]
        windows = family.pool[self.characters[labels], drawn].unfold(1, SIDE, 1).unfold(2, SIDE, 1)
        places = torch.randint(SHIFTS * SHIFTS, shape, generator=generator)
        images = windows.flatten(1, 2)[torch.arange(len(labels)), places].flatten(1)  # (B, 144)
        images = images + family.noise * draw_normal(images.shape, generator)
        return family.place(images, labels)
