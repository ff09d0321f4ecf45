"""Folders that are nearly in a form that is read: recognised, or told what was seen and what is expected."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from peftbench.common.errors import UserError
from peftbench.data.folder import Folder
from peftbench.data.video_folder import VideoFolder
from peftbench.tasks.classification.task import Classification
from support.clips import tree
from support.datasets import class_folders, refuses, write
from support.mistakes import pictures, refused

TWO = {"cat": 3, "dog": 3}


def split_folders(root: Path, *names: str) -> Path:
    for name in names:
        class_folders(root / name, TWO)
    return root


@pytest.mark.parametrize("below", ["", "pets", "images", "a/b", "images/pets"])
@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAINING", "Validation", "testing"),
        ("train", "Val", "TEST"),
    ],
)
def test_splits_are_found_in_any_case_and_up_to_two_folders_down(tmp_path, names, below):
    split_folders(tmp_path / below, *names)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "list.json").write_text("{}")
    splits = Folder(str(tmp_path)).load()
    assert splits.classes == ("cat", "dog")
    assert [len(split) for split in splits.roles("fit")] == [6, 6, 6]
    place = f"{below}/" if below else ""
    assert splits.train.names[0] == f"{place}{names[0]}/cat/0.png"
    told = f"{tmp_path} holds one folder with images; what is read is {tmp_path / below}"
    assert (told in splits.notes) == bool(below)


@pytest.mark.parametrize("below", ["pets", "a/pets"])
def test_classes_are_found_up_to_two_folders_down(tmp_path, below):
    class_folders(tmp_path / below, TWO)
    splits = Folder(str(tmp_path)).load()
    assert splits.classes == ("cat", "dog")
    assert f"{tmp_path} holds one folder with images; what is read is {tmp_path / below}" in splits.notes


def test_one_folder_too_many_within_the_splits(tmp_path):
    for role in ("train/images", "test/images", "val"):
        class_folders(tmp_path / role, TWO)
    splits = Folder(str(tmp_path)).load()
    assert [len(split) for split in splits.roles("fit")] == [6, 6, 6]
    assert splits.classes == ("cat", "dog")
    assert splits.notes[0] == f"the classes are the folders in {tmp_path / 'train' / 'images'}"
    assert not any("holds one folder" in note for note in splits.notes)


@pytest.mark.parametrize("names", [("train", "car", "bus"), ("Train", "Car"), ("test", "train", "control")])
def test_a_class_may_be_called_train(tmp_path, names):
    class_folders(tmp_path, dict.fromkeys(names, 3))
    splits = Folder(str(tmp_path)).load()
    assert set(splits.classes) == set(names)


def test_a_class_called_train_with_folders_of_its_own_is_one_beside_other_classes(tmp_path):
    for name in ("Train", "Car", "Bus"):
        class_folders(tmp_path / name, {"2024": 2, "2025": 2})
    assert Folder(str(tmp_path)).load().classes == ("Bus", "Car", "Train")


def test_folders_beside_the_splits_are_told(tmp_path):
    split_folders(tmp_path, "train", "test", "holdout")
    splits = Folder(str(tmp_path), val_fraction=0.0).load()
    assert len(splits.train) == 6
    assert f"left out, 1 folder beside train, test, such as {tmp_path / 'holdout'}" in splits.notes


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("train", "val", "validation"), "holds val, validation, which both mean val; expected one folder for each"),
        (("train", "Train"), "holds Train, train, which both mean train"),
        (("val", "test"), "holds val, test, but no images to train on; expected a folder train beside"),
        (
            ("cat/train", "cat/test", "dog/train", "dog/test"),
            "cat: holds splits inside of a class; expected train/<class>",
        ),
    ],
)
def test_splits_that_cannot_be_meant_are_refused(tmp_path, names, told):
    split_folders(tmp_path, *names)
    assert told in refuses(Folder(str(tmp_path)))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("a.png", "b.png"), "holds no class folders with images"),
        (("a.png", "b.png"), "found 2 files in none; put them into folders of their classes, or give a CSV"),
        (("train/a.png", "test/a.png"), "train: holds no class folders with images"),
        (("train/x/a.png", "train/y/b.png", "test/c.png"), "test: holds no class folders with images"),
        (("x/a.png", "x/b.png"), "x is the one folder of a class that holds images; expected two or more"),
        (("train/x/a.png", "test/x/b.png"), "x is the one folder of a class that holds images; expected two or more"),
        (("a/b/c/x/1.png", "a/b/c/y/2.png"), "a is the one folder of a class that holds images; expected two or more"),
        (("x/a.png", "y/notes.txt"), "x is the one folder of a class that holds images"),
    ],
)
def test_what_is_no_form_is_told_with_what_was_seen(tmp_path, files, told):
    for name in files:
        write(tmp_path / name) if name.endswith(".png") else (tmp_path / name).parent.mkdir()
    assert told in refuses(Folder(str(tmp_path)))


def test_one_class_is_refused_before_anything_loads(cli, tiny, tmp_path, monkeypatch):
    root = pictures(tmp_path / "photos", {"cat": 4})
    monkeypatch.setattr("peftbench.runs.run.build_backbone", lambda *_: pytest.fail("the backbone was loaded"))
    words = [*tiny, "method=linear", "data=folder", f"data.root={root}"]
    refused(cli(*words), f"data.root={root}: {root / 'cat'} is the one folder of a class", "expected two or more")
    (root / "l.csv").write_text("path,label\ncat/0.png,x\ncat/1.png,x\n")
    refused(cli(*words, "data.labels=l.csv"), "l.csv: all rows are labelled 'x'; expected two classes or more")
    assert list(tmp_path.glob("linear*")) == []


def test_one_class_of_a_data_set_from_outside_is_told_and_no_failure_of_a_metric():
    task = Classification(SimpleNamespace(facts=SimpleNamespace(width=4)), ("x",))
    with pytest.raises(UserError, match="task=classification: the data set has 1 label; expected two or more"):
        task.metrics()


@pytest.mark.parametrize("below", ["", "clips", "a/clips"])
def test_clips_are_found_in_the_same_forms(tmp_path, below):
    for role in ("Train", "Test"):
        tree(tmp_path / below / role, count=2)
    splits = VideoFolder(str(tmp_path), val_fraction=0.0).load()
    assert splits.classes == ("a", "b")
    assert [len(splits.train), len(splits.test or ())] == [4, 4]
    tree(tmp_path / "plain" / below, count=2)
    assert VideoFolder(str(tmp_path / "plain")).load().classes == ("a", "b")
