"""Images that occur several times, and groups that belong together: in one split, or told."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.data.base import Split, Splits, stratified
from peftbench.data.copies import first_copies
from peftbench.data.folder import Folder
from peftbench.data.splitting import split_groups, split_images
from peftbench.data.video_folder import VideoFolder
from support.clips import tree
from support.datasets import class_folders, refuses, write


def csv_of(root: Path, *rows: str, header: str = "path,label") -> Folder:
    (root / "l.csv").write_text("\n".join([header, *rows]) + "\n")
    return Folder(str(root), labels="l.csv", group="patient" if "patient" in header else None)


def parts(splits: Splits) -> list[Split]:
    return [split for split in (splits.train, splits.val, splits.test) if split is not None]


def digest(split: Split | None) -> str:
    assert split is not None
    return hashlib.sha256(" ".join(split.names).encode()).hexdigest()[:12]


def test_where_no_image_occurs_twice_splits_are_those_of_before_to_the_index(tmp_path):
    folders = class_folders(tmp_path / "a", {"cat": 13, "dog": 20, "test": 7})
    write(folders / "cat" / "deep" / "x.JPG"), write(folders / "cat" / "0b.png")
    assert list(map(digest, parts(Folder(str(folders)).load()))) == ["3765bdea46e9", "ce641a0ad248", "cceb5b97eab0"]
    given_roles = class_folders(tmp_path / "b" / "train", {"cat": 13, "dog": 20}).parent
    class_folders(given_roles / "testing", {"cat": 3, "dog": 4})
    of_train = Folder(str(given_roles), split_seed=1).load()
    assert list(map(digest, parts(of_train))) == ["798e2d0d8bdf", "8b03360757fe", "ad5623dd71ec"]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99))
def test_images_that_occur_once_are_cut_as_labels_alone_say(labels, seed):
    y = np.array(labels)
    ours, theirs = split_images(y, np.arange(len(y)), (0.1, 0.2), seed), stratified(y, (0.1, 0.2), seed)
    assert [a.tolist() for a in ours] == [a.tolist() for a in theirs]


rows_of_images = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("pqrstuvw")), min_size=1, max_size=60)


@given(rows_of_images, st.integers(0, 99), st.booleans())
def test_no_image_and_no_group_is_on_two_sides_and_evaluation_has_each_image_once(rows, seed, by_group):
    images = [image for image, _ in rows]
    groups = np.array([group for _, group in rows])
    labels = np.array([image % 3 for image in images])
    first = np.array([images.index(image) for image in images])
    if by_group:
        cut = split_groups(labels, first, groups.tolist(), (0.2, 0.3), seed)
    else:
        cut = split_images(labels, first, (0.2, 0.3), seed)
    assert all((np.diff(part) > 0).all() for part in cut)
    sides = [set(first[part]) for part in cut]
    assert sum(map(len, sides)) == len(set(images)), "each image is in one part"
    assert set.union(*sides) == set(first)
    assert sorted(cut[0]) == [at for at in range(len(rows)) if first[at] in sides[0]], "training has every copy"
    for part in cut[1:]:
        assert len(set(first[part])) == len(part)
    assert set(labels[cut[0]]) == set(labels), "every class is trained on"
    if by_group:
        belongs = [set(groups[np.isin(first, list(side))]) for side in sides]
        assert sum(map(len, belongs)) == len(set(groups))


def test_groups_come_close_to_the_shares_asked_for():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), rng.integers(1, 12, 200))
    labels = rng.integers(0, 3, 200)[groups]  # one diagnosis a patient
    cut = split_groups(labels, np.arange(len(labels)), [str(g) for g in groups], (0.1, 0.2), 0)
    for label in range(3):
        whole = (labels == label).sum()
        shares = [(labels[part] == label).sum() / whole for part in cut]
        np.testing.assert_allclose(shares, (0.7, 0.1, 0.2), atol=0.02)
    other = split_groups(labels, np.arange(len(labels)), [str(g) for g in groups], (0.1, 0.2), 1)
    assert other[2].tolist() != cut[2].tolist()


def test_an_image_that_a_table_names_often_is_in_one_split_however_it_is_named(tmp_path):
    class_folders(tmp_path, {"a": 20, "b": 20})
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / "a" / "copy.png")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    rows = [f"{c}/{i}.png,{c}" for c in "ab" for i in range(20)]
    more = ["a/copy.png,a", f"{tmp_path}/b/3.png,b", "link/4.png,b", "./a/../b/5.png,b"]
    splits = csv_of(tmp_path, *rows * 5, *more).load()
    content = [{path.read_bytes() for path in map(Path, split.images)} for split in parts(splits)]
    assert [len(c) for c in content] == [28, 4, 8]
    assert len(set.union(*content)) == 40
    assert [len(split) for split in parts(splits)][1:] == [4, 8]
    assert 140 <= len(splits.train) <= 144, "oversampled as the table has it"
    (note,) = splits.notes
    assert note.startswith("more than once: 40 of the images, 204 times together, such as a/0.png")


def test_copies_in_class_folders_stay_together_and_are_told(tmp_path):
    class_folders(tmp_path, {"a": 10, "b": 10})
    for i in range(10):
        shutil.copy(tmp_path / "a" / f"{i}.png", tmp_path / "a" / f"again{i}.png")
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / "wrong.png")
    splits = Folder(str(tmp_path)).load()
    content = [{Path(path).read_bytes() for path in split.images} for split in parts(splits)]
    assert sum(map(len, content)) == len(set.union(*content)) == 20
    assert "more than once: 10 of the images, 21 times together, such as a/0.png and a/again0.png" in splits.notes[0]
    assert "another label: 1, such as b/wrong.png ('b') and a/0.png ('a')" in splits.notes[1]


def test_clips_with_the_same_frames_are_copies(tmp_path):
    tree(tmp_path, count=6)
    shutil.copytree(tmp_path / "a" / "c0", tmp_path / "a" / "c0 again")
    splits = VideoFolder(str(tmp_path)).load()
    sides = [{name for name in split.names if name.startswith("a/c0")} for split in parts(splits)]
    assert {"a/c0", "a/c0 again"} in sides or {"a/c0"} in sides[1:]
    assert any(note.startswith("more than once: 1 of the clips, 2 times together") for note in splits.notes)


def test_images_of_two_given_splits_are_told(tmp_path):
    for role, seeds in (("train", {"a": 4, "b": 4}), ("val", {"a": 2, "b": 2}), ("test", {"b": 2, "a": 3})):
        class_folders(tmp_path / role, seeds)  # the first class of each is drawn from the same seed
    splits = Folder(str(tmp_path)).load()
    assert [len(split) for split in parts(splits)] == [8, 4, 5], "they are taken as they are"
    told = " | ".join(splits.notes)
    assert "4 of the validation images are training images too, such as val/a/0.png and train/a/0.png" in told
    assert "5 of the test images are training images too, such as test/a/0.png and train/b/0.png" in told
    assert "4 of the test images are validation images too, such as test/a/0.png and val/b/0.png" in told
    assert "images with the bytes of another that has another label: 5, such as" in told


def test_validation_images_that_are_made_share_none_with_training(tmp_path):
    class_folders(tmp_path / "train", {"a": 10, "b": 10})
    class_folders(tmp_path / "test", {"c": 0, "a": 2, "b": 2})
    for i in range(10):
        shutil.copy(tmp_path / "train" / "a" / f"{i}.png", tmp_path / "train" / "a" / f"x{i}.png")
    splits = Folder(str(tmp_path), val_fraction=0.3).load()
    content = [{Path(path).read_bytes() for path in split.images} for split in parts(splits)[:2]]
    assert [len(c) for c in content] == [14, 6]
    assert not content[0] & content[1]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            ["a.png,x", "b.png,y", "a.png,y"],
            "l.csv:4: a.png is labelled 'y', but line 2 labels a.png 'x'; expected one",
        ),
        (["a.png,x", "b.png,y", "c.png,y"], "l.csv:4: c.png is labelled 'y', but line 2 labels a.png 'x', which holds"),
        (["a.png,x", "b.png,y", "./a.png,y", "c.png,y"], "(rows that contradict others: 2)"),
    ],
)
def test_an_image_with_two_labels_is_refused_with_both_lines(tmp_path, rows, told):
    write(tmp_path / "a.png"), write(tmp_path / "b.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    assert told in refuses(csv_of(tmp_path, *rows))


def test_a_file_with_two_labels_in_two_given_splits_is_refused_and_its_copy_is_told(tmp_path):
    write(tmp_path / "a.png"), write(tmp_path / "b.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    rows = ["a.png,x,train", "b.png,y,train"]
    header = "path,label,split"
    assert "line 2 labels a.png 'x'" in refuses(csv_of(tmp_path, *rows, "a.png,y,test", header=header))
    splits = csv_of(tmp_path, *rows, "c.png,y,test", header=header).load()
    assert "1 of the test images is a training image too, such as c.png and a.png" in splits.notes
    assert splits.notes[-1].endswith("that has another label: 1, such as c.png ('y') and a.png ('x')")


def test_only_files_that_may_be_equal_are_read(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i}.bmp") for i in range(4)]  # all of one size
    paths += [write(tmp_path / "wide.bmp", np.zeros((4, 8, 3), dtype=np.uint8)), paths[0]]
    shutil.copy(paths[1], tmp_path / "copy.bmp")
    read: list[Path] = []
    import peftbench.data.copies as copies

    monkeypatch.setattr(copies, "stamps_of_files", lambda of: read.extend(of) or [p.read_bytes().hex() for p in of])
    assert first_copies([*paths, tmp_path / "copy.bmp"]).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert read == [paths[1], tmp_path / "copy.bmp"]


# -- groups


def test_a_column_keeps_patients_together(tmp_path):
    class_folders(tmp_path, {"a": 30, "b": 30})
    rows = [f"{c}/{i}.png,{c},p{i // 3}" for c in "ab" for i in range(30)]
    splits = csv_of(tmp_path, *rows, header="path,label,patient").load()
    patients = [{int(Path(name).stem) // 3 for name in split.names} for split in parts(splits)]
    assert [len(split) for split in parts(splits)] == [42, 6, 12]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10
    assert splits.name.endswith("-made-0.1-0.2-s0-by-patient")
    assert "groups of patient: 7 in train, 1 in val, 2 in test" in splits.notes


def test_groups_of_given_splits_are_compared(tmp_path):
    class_folders(tmp_path, {"a": 6, "b": 6})
    roles = ["train", "train", "train", "train", "test", "test"]
    rows = [f"{c}/{i}.png,{c},{role}" for c in "ab" for i, role in enumerate(roles)]
    header = "path,label,split,patient"
    apart = csv_of(tmp_path, *(f"{row},{row[0]}{row[2:]}" for row in rows), header=header).load()
    assert [note for note in apart.notes if "in both" in note] == []
    shared = csv_of(tmp_path, *(f"{row},{row[0]}" for row in rows), header=header)
    told = dataclasses.replace(shared, val_fraction=0.0).load().notes
    assert told == ("data.group=patient: 2 groups in both the test and the training split, such as a",)


@pytest.mark.parametrize(
    ("header", "rows", "told"),
    [
        ("path,label,patient", ["a/0.png,a,p", "b/0.png,b,"], "l.csv:3: expected a patient, since data.group=patient"),
        ("path,label,patient", ["a/0.png,a,p", "b/0.png,b,q"] * 3, "of 2 groups none can be spared for"),
    ],
)
def test_groups_that_cannot_be_kept_apart_are_refused(tmp_path, header, rows, told):
    class_folders(tmp_path, {"a": 2, "b": 2})
    assert told in refuses(csv_of(tmp_path, *rows, header=header))


def test_a_group_without_a_table_or_a_column_is_refused(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    assert refuses(Folder(str(tmp_path), group="site")).startswith("data.group=site: is a column of a CSV")
    (tmp_path / "l.csv").write_text("path,label,place\na/0.png,a,x\n")
    told = refuses(Folder(str(tmp_path), labels="l.csv", group="site"))
    assert told == f"data.group=site: {tmp_path / 'l.csv'} has no such column; it has path, label, place."


def test_a_group_changes_a_runs_id_only_where_it_is_given():
    import peftbench
    from peftbench.config.identity import identity

    words = ("method=linear", "backbone=vit_nano", "data=folder", "data.root=x", "data.labels=l.csv")
    plain = identity(peftbench.compose(*words))
    assert "group" not in plain["data"]["options"]
    assert identity(peftbench.compose(*words, "data.group=patient"))["data"]["options"]["group"] == "patient"
