"""Characters to tell apart, drawn from the fonts that come with matplotlib.

Letters: B rows of a batch, F fonts. Source: few-shot characters after Lake et al. 2015 (Omniglot);
the DejaVu fonts, by way of matplotlib, are free to use (Bitstream Vera licence).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch, functional_loss
from nested.support.checks import check_counts
from nested.tasks.family import (
    NetTask,
    TwoSided,
    check_noise,
    check_split,
    own_generator,
)

# without pairs that look alike, in any of the fonts, such as I and l, or 3 and З
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
    import matplotlib  # here: other families do not need it
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
    """Tell ``ways`` characters apart with a small net, 144 - ``hidden`` - ``ways``.

    Letters: B ``batch_size``, or ``query_size`` for queries. Each task draws its characters.
    Batches are (images (B, 144): a character in any font, at any of nine places, with noise of
    standard deviation ``noise``; labels (B,) int64); the loss is cross entropy, in nats.
    Meta-training and held-out tasks share no character; every third font is kept for queries.
    Raises ``ValueError`` for sizes under 1, more ways than characters, or a negative noise.
    """

    def __init__(
        self,
        ways: int = 10,
        batch_size: int = 32,
        query_size: int = 64,
        hidden: int = 32,
        noise: float = 0.1,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(ways=ways, batch_size=batch_size, query_size=query_size, hidden=hidden)
        check_noise(noise)
        if ways > len(CHARACTERS) // 2:
            raise ValueError(f"ways is at most {len(CHARACTERS) // 2}, but got {ways}")
        self.ways, self.hidden, self.noise = ways, hidden, noise
        self.sizes = {"train": batch_size, "query": query_size}
        self.device, self.dtype, self.is_held_out = device, dtype, is_held_out
        layers = nn.Linear(SIDE * SIDE, hidden), nn.ReLU(), nn.Linear(hidden, ways)
        self.model = nn.Sequential(*layers).to(device, dtype)
        self.loss = functional_loss(self.model, nn.functional.cross_entropy)

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
        # noise, too, is never met on both sides
        own = own_generator(own_generator(generator, family.is_held_out), is_query)
        fonts = torch.tensor([f for f in range(len(FONTS)) if (f % 3 == 2) == is_query])
        shape = (family.sizes[split],)
        labels = torch.randint(family.ways, shape, generator=own)
        drawn = fonts[torch.randint(len(fonts), shape, generator=own)]
        windows = family.pool[self.characters[labels], drawn].unfold(1, SIDE, 1).unfold(2, SIDE, 1)
        places = torch.randint(SHIFTS * SHIFTS, shape, generator=own)
        images = windows.flatten(1, 2)[torch.arange(len(labels)), places].flatten(1)  # (B, 144)
        images = images + family.noise * torch.randn(
            images.shape, generator=own, dtype=torch.float32
        )
        return images.to(family.device, family.dtype), labels.to(family.device)
