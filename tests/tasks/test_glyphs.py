"""Characters are drawn from the fonts, and the two sides share none."""

import pytest
import torch

from nested.tasks import Glyphs
from nested.tasks.glyphs import CHARACTERS, FONTS, draw_glyphs
from tests.problems import generator


def test_every_character_is_drawn_in_every_font_and_looks_like_no_other():
    images = draw_glyphs()
    assert images.shape[:2] == (len(CHARACTERS), len(FONTS)) and len(set(CHARACTERS)) == 120
    assert images.min() == 0 and 0.9 < images.max() <= 1
    assert (images.flatten(2).sum(-1) > 3).all()
    for font in images.unbind(1):
        assert len({tuple(image.flatten().tolist()) for image in font}) == len(CHARACTERS)


def test_glyphs_are_whole_inside_their_frame():
    assert (draw_glyphs()[..., 0, :].sum(-1) == 0).float().mean() > 0.99


def test_sides_share_no_character_and_splits_no_font():
    ours, theirs = Glyphs().pool, Glyphs().held_out().pool
    assert len(ours) + len(theirs) == len(CHARACTERS)
    shown = {tuple(image.flatten().tolist()) for image in ours.flatten(0, 1)}
    assert not any(tuple(image.flatten().tolist()) in shown for image in theirs.flatten(0, 1))


def test_a_net_can_tell_them_apart():
    family, g = Glyphs(ways=5, noise=0.05), generator()
    task = family.sample(g)
    net = family.model
    net.load_state_dict(task.init(g))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(200):
        images, labels = task.batch(g)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    images, labels = task.batch(g, "query")
    assert (net(images).argmax(1) == labels).float().mean() > 0.8


def test_more_ways_than_characters_are_refused():
    with pytest.raises(ValueError, match="ways is at most 60, but got 61"):
        Glyphs(ways=61)
