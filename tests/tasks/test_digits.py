"""Real digits: the shipped array is scikit-learn's, and its two sides never meet."""

import itertools

import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from nested.tasks import Digits
from nested.tasks.digits import load_digits
from tests.problems import generator


def test_the_shipped_images_are_scikit_learns():
    images, labels = load_digits()
    theirs = sklearn_digits()
    assert torch.equal(images * 16, torch.from_numpy(theirs.data).float())
    assert torch.equal(labels, torch.from_numpy(theirs.target))


def rows(images):
    return {tuple(image) for image in images.tolist()}


def test_no_image_is_met_twice_across_sides_and_splits():
    family = Digits()
    pools = [side.pools[split][0] for side in (family, family.held_out()) for split in side.pools]
    assert sum(len(pool) for pool in pools) == 1797
    for one, other in itertools.combinations(pools, 2):
        assert not rows(one) & rows(other)


def test_every_class_is_in_every_pool():
    for side in (Digits(), Digits().held_out()):
        for _, labels in side.pools.values():
            assert labels.unique().numel() == 10


@pytest.mark.parametrize("split", ["train", "query"])
def test_a_batch_comes_from_its_own_split(split):
    family, g = Digits(batch_size=200, query_size=200), generator()
    task = family.sample(g)
    images = (task.batch(g, split)[0] / task.contrast * 16).round() / 16
    assert rows(images) <= rows(family.pools[split][0])


def count_inversions(permutation):
    return sum(a > b for a, b in itertools.combinations(permutation.tolist(), 2))


def test_relabellings_are_even_in_meta_training_and_odd_when_held_out():
    for side, parity in ((Digits(), 0), (Digits().held_out(), 1)):
        g = generator()
        drawn = [side.sample(g).relabelling for _ in range(40)]
        assert all(sorted(p.tolist()) == list(range(10)) for p in drawn)
        assert {count_inversions(p) % 2 for p in drawn} == {parity}
        assert len({tuple(p.tolist()) for p in drawn}) > 35


def test_contrast_is_log_uniform_in_its_range():
    g = generator()
    contrasts = torch.tensor([Digits().sample(g).contrast for _ in range(200)])
    assert contrasts.min() > 1 / 3 and contrasts.max() < 3
    logs = (contrasts.log() / torch.tensor(9.0).log()) + 0.5  # uniform in [0, 1]
    assert abs(logs.mean() - 0.5) < 0.08 and abs(logs.var() - 1 / 12) < 0.02


def test_a_batch_is_relabelled_and_scaled():
    family, g = Digits(batch_size=300), generator()
    task = family.sample(g)
    images, labels = task.batch(g)
    assert images.shape == (300, 64) and labels.shape == (300,)
    lookup = {tuple(image): label for image, label in zip(*(p.tolist() for p in load_digits()))}
    plain = (images / task.contrast * 16).round() / 16
    for image, label in zip(plain.tolist()[:50], labels.tolist()):
        assert task.relabelling[lookup[tuple(image)]] == label


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"hidden": 0}, {"batch_size": 2.5}, {"contrast": (3.0, 0.3)}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="whole number from 1|contrast is"):
        Digits(**wrong)
