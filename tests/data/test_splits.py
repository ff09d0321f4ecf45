"""Splits: stratified, by stage, checked, taken apart, and hashed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.common.errors import UserError
from peftbench.data.base import Split, Splits, split_hash, stratified
from peftbench.data.folder import Folder
from support.datasets import arrays, class_folders, noise, write


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    fractions=st.lists(st.floats(0, 0.99), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_stratified_parts_are_disjoint_and_whole_and_every_class_is_trained_on(labels, fractions, seed):
    values = np.array(labels)
    parts = stratified(values, fractions, seed)
    assert len(parts) == len(fractions) + 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert set(values[parts[0]]) == set(labels)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0, 0.9), st.integers(0, 99))
@settings(deadline=None)
def test_stratified_takes_the_fraction_of_each_class_and_the_same_images_for_the_same_seed(labels, share, seed):
    values = np.array(labels)
    first, second = (stratified(values, (share,), seed) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    for label in set(labels):
        size = labels.count(label)
        assert (values[first[1]] == label).sum() == min(round(share * size), size - 1)


def test_stratified_differs_between_seeds():
    values = np.zeros(100, dtype=np.int64)
    assert (stratified(values, (0.3,), 0)[1] != stratified(values, (0.3,), 1)[1]).any()


def test_roles_follow_the_stage():
    train, val, test = arrays([0, 1]), arrays([0], "v"), arrays([1], "t")
    splits = Splits("made", ("a", "b"), train, val, test)
    assert splits.roles("fit") == (train, val, test)
    assert splits.roles("tune") == (train, val, None)
    both, nothing, last = splits.roles("final")
    assert (list(both.names), nothing, last) == (["i0", "i1", "v0"], None, test)


def test_the_official_union_of_train_and_val_is_preferred_to_their_sum():
    union = arrays([0, 1, 0], "u")
    splits = Splits("made", ("a", "b"), arrays([0, 1]), arrays([0]), arrays([1]), trainval=union)
    assert splits.roles("final")[0] is union


def test_final_without_validation_images_trains_on_train():
    splits = Splits("made", ("a", "b"), train := arrays([0, 1]), test=arrays([1]))
    assert splits.roles("final")[0] is train
    assert splits.roles("fit")[1] is None


@pytest.mark.parametrize(
    ("stage", "advice"), [("tune", "no validation images"), ("fit", "no test images"), ("final", "no test images")]
)
def test_a_stage_without_the_images_it_needs_is_refused(stage, advice):
    with pytest.raises(UserError, match=advice) as refusal:
        Splits("made", ("a",), arrays([0])).roles(stage)
    assert f"data.stage={stage}" in str(refusal.value)


@pytest.mark.parametrize("role", ["train", "val", "test", "trainval"])
def test_an_empty_split_is_refused_by_name(role):
    parts = {"train": arrays([0]), role: arrays([])}
    with pytest.raises(UserError, match=f"made: the {role} split is empty"):
        Splits("made", ("a",), **parts)


@pytest.mark.parametrize("label", [-1, 2, 1000])
def test_a_label_outside_the_classes_is_refused_with_the_image_named(label):
    with pytest.raises(UserError, match=rf"t1 of the test split has label {label}; expected 0 to 1 \(2 classes\)"):
        Splits("made", ("a", "b"), arrays([0, 1]), test=arrays([0, label], "t"))


@given(st.lists(st.integers(0, 9), max_size=12))
@settings(deadline=None)
def test_taking_images_keeps_images_labels_and_names_together(indices):
    whole = arrays(range(10))
    part = whole.take(indices)
    assert list(part.labels) == indices
    assert list(part.names) == [f"i{i}" for i in indices]
    assert (part.images == whole.images[indices]).all()


def test_splits_of_arrays_and_of_files_add_up():
    memory, files = arrays([0, 1]), Split([Path("a.png")], np.array([1]), ["a"])
    both = memory + files
    assert (len(both), list(both.labels), list(both.names)) == (3, [0, 1, 1], ["i0", "i1", "a"])
    assert isinstance((memory + memory).images, np.ndarray)


def test_the_hash_changes_with_a_name_a_label_a_pixel_and_the_order():
    split = arrays([0, 1])
    pixels = split.images.copy()
    pixels[1, 0, 0, 0] ^= 1
    others = [
        Split(split.images, split.labels, ["i0", "other"]),
        Split(split.images, np.array([0, 0]), split.names),
        Split(pixels, split.labels, split.names),
        split.take([1, 0]),
        split.take([0]),
    ]
    hashes = {split_hash(s, None, None) for s in [split, *others]}
    assert len(hashes) == 6
    assert split_hash(split, None, None) == split_hash(arrays([0, 1]), None, None)


def test_the_hash_tells_the_roles_apart():
    a, b = arrays([0, 1]), arrays([1], "b")
    assert (
        len({split_hash(a, b, None), split_hash(b, a, None), split_hash(a, None, b), split_hash(a + b, None, None)})
        == 4
    )


def test_the_hash_of_files_is_that_of_the_same_files_elsewhere_and_changes_with_one_of_them(tmp_path):
    here = class_folders(tmp_path / "here", {"cat": 4, "dog": 4})
    there = shutil.copytree(here, tmp_path / "far" / "there")
    first, second = (
        split_hash(*Folder(str(r), val_fraction=0.25, test_fraction=0.25).load().roles("fit")) for r in (here, there)
    )
    assert first == second
    with (there / "cat" / "0.png").open("ab") as image:
        image.write(b"\0")
    assert split_hash(*Folder(str(there), val_fraction=0.25, test_fraction=0.25).load().roles("fit")) != first


def test_the_hash_changes_when_a_file_is_replaced_by_another_of_the_same_size(tmp_path):
    path = write(tmp_path / "cat" / "0.bmp", noise(1, seed=1)[0])

    def hashed() -> str:
        return split_hash(Split([path], np.array([0]), ["cat/0.bmp"]))

    before, size = hashed(), path.stat().st_size
    write(path, noise(1, seed=2)[0])
    assert path.stat().st_size == size
    assert hashed() != before
