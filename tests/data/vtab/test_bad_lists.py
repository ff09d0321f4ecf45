"""A small task in the layout of VTAB-1k runs, and lists that cannot be used are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from support.mistakes import pictures, refused

# -- data


def lists(root: Path, **changed: str) -> Path:
    """A small task in the layout of VTAB-1k."""
    pictures(root / "images", {"trainval": 6, "test": 4})
    lines = {
        "train800": [f"images/trainval/{i}.png {i % 2}" for i in range(4)],
        "val200": [f"images/trainval/{i}.png {i % 2}" for i in range(4, 6)],
        "train800val200": [f"images/trainval/{i}.png {i % 2}" for i in range(6)],
        "test": [f"images/test/{i}.png {i % 2}" for i in range(4)],
    }
    for name, content in lines.items():
        (root / f"{name}.txt").write_text(changed.get(name, "\n".join(content) + "\n"))
    return root


def test_a_small_task_in_the_layout_of_vtab_runs(cli, tiny, tmp_path):
    root = lists(tmp_path / "svhn")
    assert cli(*tiny, "method=linear", "data=vtab/svhn", f"data.root={root}", "data.batch_size=2")[0] == 0


@pytest.mark.parametrize("line", ["images/trainval/0.png 10", "images/trainval/0.png -1"])
def test_a_label_outside_the_classes_is_told_with_its_line(cli, tiny, tmp_path, line):
    root = lists(tmp_path / "svhn", train800=f"images/trainval/1.png 1\n{line}\n")
    told = cli(*tiny, "method=linear", "data=vtab/svhn", f"data.root={root}")
    refused(told, f"{root / 'train800.txt'}:2", line.split()[1], "expected 0 to 9")
    assert list(tmp_path.glob("linear*")) == []


@pytest.mark.parametrize("name", ["train800", "val200", "train800val200", "test"])
def test_an_empty_list_is_told(cli, tiny, tmp_path, name):
    root = lists(tmp_path / "svhn", **{name: "\n"})
    role = {"train800": "train", "val200": "val", "train800val200": "trainval", "test": "test"}[name]
    refused(cli(*tiny, "method=linear", "data=vtab/svhn", f"data.root={root}"), f"the {role} split is empty")
    assert list(tmp_path.glob("linear*")) == []


# -- a loss that is no longer a number


def test_a_folder_of_another_vtab_task_does_not_pass_for_this_one(cli, tmp_path):
    folder = tmp_path / "somewhere"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "a.png")
    for name in ("train800", "val200", "train800val200", "test"):
        (folder / f"{name}.txt").write_text("images/a.png 0\n")
    status, _, error = cli("data=vtab/eurosat", f"data.root={folder}", "backbone=resnet_nano", "method=linear")
    assert status == 2
    assert "looks like another task" in error
    assert "eurosat" in error
