"""Digits on canvases, drawn once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from peftbench import compose
from peftbench.common.errors import UserError
from peftbench.data.base import Splits
from peftbench.data.digits import Digits
from peftbench.data.digits_det import DigitsDet
from peftbench.data.ood import read_shifts
from support.coco import refusal

# -- what is read


def test_shifted_test_sets_are_corruptions_and_no_folders(few):
    assert read_shifts(compose("data=digits", "data.ood=[noise:1]"), few) == {"noise:1": ("noise", 1)}
    with pytest.raises(
        UserError, match=r"data\.ood=elsewhere: is no corruption, and a folder of classes does not go with"
    ):
        read_shifts(compose("data=digits", "data.ood=[elsewhere]"), few)


# -- digits on canvases


@pytest.fixture(scope="module")
def few() -> Splits:
    return DigitsDet(images=(6, 2, 3), canvas=96).load()


def test_digits_are_drawn_once_and_the_same_again(few, monkeypatch, tmp_path):
    assert [len(s or ()) for s in (few.train, few.val, few.test)] == [6, 2, 3]
    assert few.classes == tuple("0123456789")
    for objects in few.train.labels:
        assert 1 <= len(objects.labels) <= 5
        assert objects.size == (96, 96)
    before = [p.stat().st_mtime_ns for p in few.train.images]
    again = DigitsDet(images=(6, 2, 3), canvas=96).load()
    assert [p.stat().st_mtime_ns for p in again.train.images] == before
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    assert DigitsDet(images=(6, 2, 3), canvas=96).load().train.content == few.train.content
    assert DigitsDet(images=(6, 2, 3), canvas=96, drawing_seed=1).load().train.content != few.train.content


def test_a_folder_that_is_not_whole_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    made = DigitsDet(images=(2, 1, 1), canvas=64)
    whole = made.load().train
    for damage in (
        lambda: whole.images[0].unlink(),
        lambda: whole.images[1].write_bytes(b"half"),
        lambda: (whole.images[0].parents[2] / "stamp.json").unlink(),
    ):
        damage()
        assert made.load().train.content == whole.content
    assert [p.name for p in (tmp_path / "digits_det").iterdir() if p.name.startswith(".")] == []


def likeness(images: list[np.ndarray]) -> np.ndarray:
    """Grey images of any size as standardised rows of 12 x 12 pixels."""
    rows = np.stack([np.asarray(Image.fromarray(i).resize((12, 12)), dtype=np.float64).ravel() for i in images])
    return (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-9)


def test_what_is_in_a_box_is_the_digit_that_its_label_says(few):
    digits = Digits().load()
    inks = [i[np.ix_((i > 76).any(1), (i > 76).any(0))] for i in np.asarray(digits.train.images)]
    cuts, labels = [], []
    for split in (few.train, few.val, few.test):
        for path, objects in zip(split.images, split.labels, strict=True):
            grey = np.asarray(Image.open(path).convert("L"))
            cuts += [grey[y1:y2, x1:x2] for x1, y1, x2, y2 in objects.boxes.astype(int)]
            labels += objects.labels.tolist()
    like = np.abs(likeness(cuts) @ likeness(inks).T)  # ink may be darker or lighter than what is under it
    right = digits.train.labels[like.argmax(axis=1)] == labels
    assert len(labels) > 20
    assert right.mean() > 0.8, "nearest neighbours among the digits; chance is 0.1"


@pytest.mark.parametrize("options", [{"images": (0, 1, 1)}, {"canvas": 8}, {"drawing_seed": -1}])
def test_digits_that_cannot_be_drawn(options):
    assert refusal(DigitsDet(**options)).startswith(f"data.{next(iter(options))}=")
