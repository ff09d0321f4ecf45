"""The data that is shipped: digits and photos."""

from __future__ import annotations

import numpy as np

from peftbench import compose
from peftbench.data.base import split_hash
from peftbench.data.digits import Digits
from peftbench.data.images import Transform
from peftbench.runs.build import instantiate
from support.datasets import load

# -- digits


def test_digits_are_split_into_train_val_and_test():
    splits = Digits().load()
    assert [len(s) for s in splits.roles("fit")] == [999, 199, 599]
    assert splits.classes == tuple("0123456789")
    assert splits.train.images.dtype == np.uint8
    assert splits.train.images.shape[1:] == (8, 8)
    assert (splits.train.images.min(), splits.train.images.max()) == (0, 255)


def test_digits_are_always_split_in_the_same_way():
    assert split_hash(*Digits().load().roles("fit")) == split_hash(*Digits().load().roles("fit"))
    names = [n for s in Digits().load().roles("fit") for n in s.names]
    assert len(set(names)) == 1797


# -- the shipped photos


def test_photos_are_25_classes_of_ten_and_ten_images_in_less_than_5_mb():
    dataset = instantiate(compose("data=photos").data)
    splits = dataset.load()
    assert len(splits.classes) == 25
    assert splits.val is None
    for split in (splits.train, splits.test):
        assert np.bincount(split.labels).tolist() == [10] * 25
    assert not {p.read_bytes() for p in splits.train.images} & {p.read_bytes() for p in splits.test.images}
    assert sum(p.stat().st_size for p in [*splits.train.images, *splits.test.images]) < 5e6


def test_every_photo_can_be_read():
    train, _, test = instantiate(compose("data=photos").data).load().roles("fit")
    made = load((train, None, test), transform=Transform(16, "bilinear", (0.5,) * 3, (0.5,) * 3))
    assert (len(made.train.dataset), len(made.test.dataset), made.skipped) == (250, 250, ())
