"""Domains: which images are trained on, which are held out, and which are tested as shifted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import peftbench
from peftbench.data.domain_folder import DomainFolder
from peftbench.runs.context import Context
from peftbench.runs.run import read_data, run
from support.datasets import class_folders, noise, refuses, write
from support.runs import told_by

FEW = [
    *("backbone=resnet_nano", "backbone.pretrained=false", "data=domain_folder", "data.size=32", "method=linear"),
    *("trainer.progress=false", "trainer.epochs=1", "logger=none", "data.batch_size=8", "taps=off"),
]


@pytest.fixture
def root(tmp_path) -> Path:
    """Three domains of two classes; sketch lacks the second, and clip has a third of its own."""
    for seed, (domain, counts) in enumerate(
        {"photo": {"cat": 10, "dog": 10}, "sketch": {"cat": 6}, "clip": {"cat": 4, "fox": 3}}.items()
    ):
        for i, (name, count) in enumerate(counts.items()):
            for j, pixels in enumerate(noise(count, seed=10 * seed + i)):
                write(tmp_path / "set" / domain / name / f"{j}.png", pixels)
    return tmp_path / "set"


def test_one_domain_is_trained_on_and_the_others_are_tested(root):
    splits = DomainFolder(str(root), ("photo",)).load()
    assert splits.classes == ("cat", "dog", "fox")
    assert [len(s) for s in splits.roles("fit")] == [14, 2, 4]
    assert np.bincount(splits.test.labels, minlength=3).tolist() == [2, 2, 0]
    assert {name: len(split) for name, split in splits.shifted.items()} == {"clip": 7, "sketch": 6}
    assert set(splits.shifted["clip"].labels) == {0, 2}
    assert splits.name == "set-photo-made-0.1-0.2-s0"
    told = " ".join(splits.notes)
    assert "sketch has no image of 2 classes (dog, fox), of 3" in told
    assert "no training domain has 1 class (fox)" in told
    assert list(DomainFolder(str(root), ("photo",), test_domains=("sketch",)).load().shifted) == ["sketch"]


def test_of_several_domains_each_gives_its_share_and_copies_stay_together(root):
    for i in range(4):  # copies in another domain
        shutil.copy(root / "photo/cat" / f"{i}.png", root / "sketch/cat" / f"copy{i}.png")
    splits = DomainFolder(str(root), ("photo", "sketch"), val_fraction=0.0, test_fraction=0.5).load()
    of_domain = [name.partition("/")[0] for name in splits.test.names]
    assert {"photo", "sketch"} == set(of_domain)
    held, trained = ({Path(p).read_bytes() for p in split.images} for split in (splits.test, splits.train))
    assert not held & trained
    assert set(splits.shifted) == {"clip"}


def test_folders_of_splits_in_a_domain_are_taken_as_they_are(tmp_path):
    for role, count in (("train", 10), ("test", 2)):
        class_folders(tmp_path / "photo" / role, {"cat": count, "dog": count})
    class_folders(tmp_path / "sketch" / "train", {"cat": 5, "dog": 5}, 14)
    class_folders(tmp_path / "sketch" / "test", {"cat": 1, "dog": 1}, 14)
    splits = DomainFolder(str(tmp_path), ("photo",)).load()
    assert [len(s) for s in splits.roles("fit")] == [18, 2, 4]
    assert len(splits.shifted["sketch"]) == 2, "its test images alone"


def test_lists_say_which_images_are_which(root, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    lines = [f"photo/{name}/{i}.png {number}\n" for number, name in enumerate(("cat", "dog")) for i in range(5)]
    (lists / "photo_train.txt").write_text("".join(lines))
    (lists / "photo_test.txt").write_text("photo/cat/6.png 0\nphoto/dog/7.png 1\n")
    (lists / "sketch_test.txt").write_text("sketch/cat/0.png 0\n")
    listed = DomainFolder(str(root), ("photo",), ("sketch",), str(lists), val_fraction=0.2)
    splits = listed.load()
    assert [len(split) for split in splits.roles("fit")] == [8, 2, 2]
    assert splits.shifted["sketch"].names == ["sketch/cat/0.png"]
    assert splits.name == "set-photo"
    (lists / "sketch_test.txt").write_text("sketch/cat/0.png 1\n")
    assert "has the number 1, which is the class 'dog'" in refuses(listed)
    (lists / "sketch_test.txt").write_text("sketch/cat/99.png 0\n")
    assert "names sketch/cat/99.png, which is not in" in refuses(listed)
    (lists / "sketch_test.txt").unlink()
    assert "sketch_test.txt: is missing" in refuses(listed)


def test_what_is_no_domain_is_refused(root):
    path = str(root)
    assert "no domain 'phot' in" in refuses(DomainFolder(path, ("phot",)))
    assert "did you mean 'photo'?" in refuses(DomainFolder(path, ("phot",)))
    assert "there is no domain 'real'" in refuses(DomainFolder(path, ("photo",), ("real",)))
    assert "expected at least one of clip, photo, sketch" in refuses(DomainFolder(path, ()))
    assert "photo is trained on" in refuses(DomainFolder(path, ("photo",), ("photo",)))
    assert "data.lists=nowhere: there is no such folder" in refuses(DomainFolder(path, ("photo",), None, "nowhere"))
    (root / "empty").mkdir()
    told = refuses(DomainFolder(path, ("photo",)))
    assert "the domain empty holds no images" in told
    assert "data.test_domains" in told
    assert len(DomainFolder(path, ("photo",), ("clip",)).load().shifted) == 1


def test_a_run_is_tested_in_and_out_of_its_domain_and_the_report_shows_both(root, tmp_path, cli, capsys):
    words = [*FEW, f"data.root={root}", "data.train_domains=[photo]"]
    status, out, err = cli(*words)
    assert status == 0, err
    (folder,) = tmp_path.glob("linear-*")
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert metrics["ood/accuracy"] == pytest.approx((metrics["ood/clip/accuracy"] + metrics["ood/sketch/accuracy"]) / 2)
    assert "ood %" in out
    assert "no training domain has 1 class (fox)" in err
    _, out, _ = told_by(capsys, "report", tmp_path)
    head = next(line for line in out.splitlines() if "clip" in line)
    shown = [word for word in head.split() if word in ("mean", "clip", "sketch", "test")]
    assert shown == ["test", "mean", "clip", "sketch"]
    status, _, err = told_by(capsys, "choose", tmp_path, "metric=ood/accuracy")
    assert status == 2
    assert err.startswith("peftbench: metric=ood/accuracy: is of shifted test images")
    assert told_by(capsys, "choose", tmp_path)[0] == 0
    config = peftbench.compose(*words, f"output_dir={tmp_path}")
    before = read_data(Context(config)).hash
    write(root / "clip/cat/0.png", noise(1, seed=99)[0])
    assert read_data(Context(config)).hash != before, "another image of a tested domain makes another run"
    tuned = run(peftbench.compose(*words, f"output_dir={tmp_path}", "data.stage=tune"))
    assert not [name for name in tuned.metrics if name.startswith(("ood/", "test/"))]


def test_a_look_at_a_data_set_reads_the_domains_that_are_tested(root, capsys):
    shutil.copy(root / "photo/cat/3.png", root / "clip/cat/copy.png")
    (root / "sketch/cat/0.png").write_bytes(b"no image")
    words = ["data=domain_folder", f"data.root={root}", "data.train_domains=[photo]"]
    status, out, _ = told_by(capsys, "data", "check", *words)
    assert status == 1
    assert "of the ood/sketch images cannot be read, such as sketch/cat/0.png" in out
    assert "clip: 1 of its images is a training image too" in out


@pytest.mark.slow
def test_methods_that_stay_near_their_start_stand_side_by_side(root, tmp_path, cli, capsys):
    methods = ("full", "ftp", "tpgm", "l2sp", "wise_ft", "lp_ft", "lora")
    few = [word for word in FEW if not word.startswith("method=")]
    words = [f"data.root={root}", "data.train_domains=[photo]", "data.val_fraction=0.2", "trainer.max_batches=2"]
    status, out, err = cli("-m", *few, *words, f"method={','.join(methods)}")
    assert status == 0, out + err
    _, out, _ = told_by(capsys, "report", tmp_path)
    rows = [line.split() for line in out[out.index("On shifted test sets") :].splitlines()]
    of_methods = [row for row in rows if row and row[0] in methods and len(row) == 5]
    shown = {row[0]: row[1:] for row in reversed(of_methods)}  # the first of each
    assert set(shown) == set(methods)
    for test, mean, clip, sketch in (map(float, figures) for figures in shown.values()):
        assert 0 <= test <= 100
        assert mean == pytest.approx((clip + sketch) / 2, abs=0.11)
