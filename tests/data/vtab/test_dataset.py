"""VTAB-1k: a task is read from its four lists."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from peftbench import compose
from peftbench.common.vtab_tasks import ALIASES, GROUPS
from peftbench.config import CONFIGS
from peftbench.data.vtab.dataset import Vtab
from peftbench.runs.build import instantiate
from support.datasets import refuses, write
from support.places import shared


def vtab_task(folder: Path, **lists: list[str]) -> Path:
    """A task of six training, three validation and four test images in three classes; `lists` replace its lines."""
    lines = {
        "train800": [f"images/trainval/{i:06d}.jpg {i % 3}" for i in range(6)],
        "val200": [f"images/trainval/{i:06d}.jpg {i % 3}" for i in range(6, 9)],
        "train800val200": [f"images/trainval/{i:06d}.jpg {i % 3}" for i in range(9)],
        "test": [f"images/test/{i:06d}.jpg {i % 3}" for i in range(4)],
    }
    for line in lines["train800val200"] + lines["test"]:
        write(folder / line.split()[0])
    for name, content in (lines | lists).items():
        (folder / f"{name}.txt").write_text("\n".join(content) + "\n")
    return folder


def test_all_nineteen_tasks_are_configured_with_their_published_number_of_classes():
    published = {
        "cifar": 100, "caltech101": 102, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37, "svhn": 10,
        "sun397": 397, "patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5,
        "clevr_count": 8, "clevr_dist": 6, "dmlab": 6, "kitti": 4, "dsprites_loc": 16, "dsprites_ori": 16,
        "smallnorb_azi": 18, "smallnorb_ele": 9,
    }  # fmt: skip
    assert {t for tasks in GROUPS.values() for t in tasks} == set(published)
    configured = {p.stem: yaml.safe_load(p.read_text())["data"] for p in (CONFIGS / "data/vtab").glob("*.yaml")}
    assert {name: data["classes"] for name, data in configured.items()} == published
    assert all(d["name"] == f"vtab/{n}" and d["task_name"] == n for n, d in configured.items())
    assert set(ALIASES.values()) <= set(published)


def test_a_task_is_read_from_its_four_lists(tmp_path):
    vtab_task(tmp_path / "dtd")
    splits = Vtab("dtd", 3, str(tmp_path)).load()
    assert [len(s) for s in (splits.train, splits.val, splits.trainval, splits.test)] == [6, 3, 9, 4]
    assert splits.name == "vtab/dtd"
    assert splits.train.names[1] == "images/trainval/000001.jpg"
    assert list(splits.val.labels) == [0, 1, 2]
    assert splits.roles("final")[0] is splits.trainval


@pytest.mark.parametrize("alias", ["cifar", "cifar100", "cifar_100"])
def test_a_task_is_found_under_each_of_its_names(tmp_path, alias):
    vtab_task(tmp_path / alias)
    assert Vtab("cifar", 3, str(tmp_path)).load().name == "vtab/cifar"


def test_the_root_may_be_the_folder_of_the_task(tmp_path):
    vtab_task(tmp_path)
    assert len(Vtab("svhn", 3, str(tmp_path)).load().test) == 4


def test_an_alias_is_accepted_on_the_command_line_and_stored_under_the_canonical_name():
    config = compose("data=vtab/cifar100")
    assert (config.data.name, config.data.options["task_name"]) == ("vtab/cifar", "cifar")
    assert config.choices["data"] == "vtab/cifar"


def test_classes_are_named_where_a_file_names_them(tmp_path):
    vtab_task(tmp_path)
    assert Vtab("svhn", 3, str(tmp_path)).load().classes == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("one\ntwo words\nthree\n")
    assert Vtab("svhn", 3, str(tmp_path)).load().classes == ("one", "two words", "three")


def test_blank_lines_in_a_list_mean_nothing(tmp_path):
    vtab_task(tmp_path, val200=["", "images/trainval/000006.jpg 0", "  ", ""])
    assert len(Vtab("svhn", 3, str(tmp_path)).load().val) == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("images/trainval/000000.jpg", "expected '<path> <label>'"),
        ("images/trainval/000000.jpg cat", "expected '<path> <label>'"),
        ("images/trainval/000000.jpg 1.0", "expected '<path> <label>'"),
        ("images/trainval/000000.jpg --1", "expected '<path> <label>'"),
        ("images/trainval/000000.jpg ²", "expected '<path> <label>'"),
        ("images/trainval/000000.jpg 3", "label 3; expected 0 to 2"),
        ("images/trainval/000000.jpg -1", "label -1; expected 0 to 2"),
        ("../elsewhere/000000.jpg 0", "leads out of the task's folder"),
        ("images/../../000000.jpg 0", "leads out of the task's folder"),
        ("/etc/hostname 0", "leads out of the task's folder"),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_with_its_number(tmp_path, line, told):
    vtab_task(tmp_path, train800=["images/trainval/000001.jpg 1", line])
    found = refuses(Vtab("svhn", 3, str(tmp_path)))
    assert f"{tmp_path / 'train800.txt'}:2: " in found
    assert told in found


def test_missing_images_are_counted_and_one_is_named(tmp_path):
    vtab_task(tmp_path)
    (tmp_path / "images/test/000002.jpg").unlink()
    told = refuses(Vtab("svhn", 3, str(tmp_path)))
    assert f"1 of its 4 images is missing, such as {tmp_path / 'images/test/000002.jpg'}" in told


def test_a_missing_list_is_named(tmp_path):
    vtab_task(tmp_path)
    (tmp_path / "val200.txt").unlink()
    assert str(tmp_path / "val200.txt") in refuses(Vtab("svhn", 3, str(tmp_path)))


def test_a_list_that_is_no_text_is_refused(tmp_path):
    vtab_task(tmp_path)
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\x00images\x80 1\n")
    assert str(tmp_path / "test.txt") in refuses(Vtab("svhn", 3, str(tmp_path)))


def test_a_missing_task_is_told_where_it_was_looked_for(tmp_path):
    told = refuses(Vtab("svhn", 3, str(tmp_path / "none")))
    assert str(tmp_path / "none") in told
    assert "data.root=" in told


@pytest.mark.parametrize(
    ("stage", "sizes"), [("final", (1000, None, 1020)), ("fit", (800, 200, 1020)), ("tune", (800, 200, None))]
)
def test_the_caltech_sample_is_read_as_a_task_of_vtab(stage, sizes):
    root = shared("caltech101-vtab1k-like")
    config = compose("data=vtab/caltech101", f"data.root={root}", f"data.stage={stage}")
    splits = instantiate(config.data).load()
    assert tuple(s and len(s) for s in splits.roles(stage)) == sizes
    assert (len(splits.classes), splits.classes[0]) == (102, "accordion")


def test_tasks_of_vtab_are_trained_on_train_and_val_together_unless_told_otherwise():
    assert compose("data=vtab/svhn").data.stage == "final"
