"""A COCO file that lists one file under several ids: one image, with the boxes of all."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.data.annotations import read_annotations
from peftbench.data.coco import CocoFolder
from peftbench.data.coco_merging import merge_entries
from support.coco import box, changed, good, load, refusal, write


def twice(**more: object) -> dict:
    """`good`, with 5.png under the ids 5 and 11 too, each with one of its boxes."""
    content = good()
    content["images"] += [
        {"id": 11, "file_name": "5.png", "height": 20, "width": 30, **more},
        {"id": 12, "file_name": "./5.png"},
    ]
    first, second, crowd = content["annotations"]
    content["annotations"] = [
        first,
        {**second, "image_id": 11},
        crowd,
        box(5, 12, 3, (2, 2, 4, 4)),
        {**first, "id": 6, "image_id": 12},
    ]
    return content


def test_entries_of_one_file_are_one_image_and_told(tmp_path):
    splits = load(write(tmp_path, twice()))
    assert [objects.id for objects in splits.train.labels] == [5, 7, 9]
    assert splits.train.names == ["5.png", "7.png", "9.png"]
    merged = splits.train.labels[0]
    assert merged.boxes.tolist() == [[1, 2, 11, 7], [20, 10, 30, 20], [2, 2, 6, 6]]
    assert (merged.labels.tolist(), merged.area.tolist()) == ([1, 0, 0], [12.5, 100, 16])
    assert splits.notes == (
        "instances_train.json: 5 entries list 3 images, such as 5.png (ids 5 and 11); each is one image, with the "
        "boxes of all its entries, each once (1 repeated)",
    )


def test_the_same_file_by_two_names_is_one_image(tmp_path):
    content = good()
    content["images"] += [{"id": 11, "file_name": "images/7.png", "height": 20, "width": 30}]
    content["annotations"] += [box(9, 11)]
    write(tmp_path, content)
    splits = load(tmp_path, images=("images", "."))
    assert [len(objects.boxes) for objects in splits.train.labels] == [2, 1, 1]


def test_a_file_with_an_entry_for_each_object_is_held_out_whole(tmp_path):
    content = changed(
        images=[
            {"id": 10 * i + k, "file_name": f"{i}.png", "height": 20, "width": 30} for k in (0, 1) for i in (5, 7, 9)
        ],
        annotations=[box(10 * i + k, 10 * i + k, bbox=(k, 2, 9, 9)) for i in (5, 7, 9) for k in (0, 1)],
    )
    splits = load(write(tmp_path, content), val_fraction=0.34)
    assert splits.val is not None
    assert not set(splits.train.images) & set(splits.val.images)
    assert [len(o.boxes) for split in (splits.train, splits.val) for o in split.labels] == [2, 2, 2]


def test_copies_under_other_names_are_held_out_with_their_image_and_told_between_files(tmp_path):
    content = good()
    content["images"] += [{"id": i + 1, "file_name": f"copy{i}.png", "height": 20, "width": 30} for i in (5, 7, 9)]
    root = write(tmp_path, content)
    for i in (5, 7, 9):
        shutil.copy(root / "images" / f"{i}.png", root / "images" / f"copy{i}.png")
    for seed in range(3):
        splits = load(root, val_fraction=0.34, split_seed=seed)
        assert splits.val is not None
        assert [len(splits.train), len(splits.val)] == [4, 1]
        assert splits.val.names[0] not in [name.removeprefix("copy") for name in splits.train.names]
    write(root, changed(images=content["images"][3:], annotations=[]), "annotations/instances_val.json")
    write(root, good())
    told = load(root, val="annotations/instances_val.json").notes
    assert told == ("3 of the test images are training images too, such as copy5.png",)


def test_sizes_that_contradict_each_other_are_refused(tmp_path):
    root = write(tmp_path, twice(width=31))
    told = refusal(CocoFolder(root=str(root), val=None))
    assert told.endswith("images 5 and 11 are both 5.png, but of 30 x 20 and 31 x 20 pixels; expected one size.")


def test_a_file_without_repeated_entries_is_as_before(tmp_path):
    listed = read_annotations(write(tmp_path, good()) / "annotations" / "instances_train.json")
    merged, kept, note = merge_entries(listed, listed.names)
    assert merged is listed
    assert (kept.tolist(), note) == ([0, 1, 2], "")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return read_annotations(write(tmp_path_factory.mktemp("coco"), good()) / "annotations" / "instances_train.json")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=12), st.data())
@settings(max_examples=40)
def test_every_box_is_kept_once_for_its_file(listed, entries, data):
    from dataclasses import replace

    files = [file for file, _ in entries]
    owner = [at for at, (_, count) in enumerate(entries) for _ in range(count)]
    kinds = data.draw(st.lists(st.integers(0, 2), min_size=len(owner), max_size=len(owner)))
    count = len(owner)
    given_ = replace(
        listed,
        ids=np.arange(100, 100 + len(files)),
        names=[f"{file}.png" for file in files],
        sizes=np.zeros((len(files), 2), dtype=np.int64),
        image=np.array(owner, dtype=np.int64),
        boxes=np.array([[0, 0, kind + 1, 2] for kind in kinds], dtype=float).reshape(-1, 4),
        labels=np.zeros(count, dtype=np.int64),
        crowd=np.zeros(count, dtype=bool),
        area=np.full(count, np.nan),
    )
    merged, kept, note = merge_entries(given_, files)
    assert merged.names == [f"{file}.png" for file in dict.fromkeys(files)]
    assert kept.tolist() == [files.index(file) for file in dict.fromkeys(files)]
    assert bool(note) == (len(set(files)) < len(files))
    ours = {(merged.names[i], *b) for i, b in zip(merged.image.tolist(), merged.boxes.tolist(), strict=True)}
    assert ours == {(f"{files[i]}.png", *b) for i, b in zip(owner, given_.boxes.tolist(), strict=True)}
    assert len(merged.image) <= count
