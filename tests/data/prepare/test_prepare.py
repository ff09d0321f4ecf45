"""`peftbench data prepare`: every task from its source, in the layout, with its split noted."""

from __future__ import annotations

import json
import zipfile

import pytest

from peftbench.common.vtab_tasks import TASKS
from peftbench.data.prepare.sources import SOURCES
from support import standins
from support.vtab import everything, rows


def test_every_task_has_a_source_and_every_source_a_stand_in(data):
    assert sorted(task for source in SOURCES.values() for task in source.tasks) == sorted(TASKS)
    assert set(standins._MAKERS) == set(SOURCES)
    status, told, _ = data("sources")
    assert status == 0
    for name, source in SOURCES.items():
        for word in (*(f"vtab/{task}" for task in source.tasks), source.home, source.licence, source.steps):
            assert word in told
        for file in source.files:
            assert f"{name}/{file.name}" in told
            assert (file.url or "by hand") in told


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_made_in_the_layout_and_passes_the_check(prepared, data, name):
    folder = prepared[0] / name
    assert [len(rows(folder, f)) for f in ("train800.txt", "val200.txt", "train800val200.txt", "test.txt")] == [
        16, 4, 20, 12
    ]  # fmt: skip
    for (path, label), split in zip(everything(folder), ["train800val200"] * 20 + ["test"] * 12, strict=True):
        assert path.parent == folder / "images" / split
        assert len(path.stem) == 6
        assert 0 <= label < TASKS[name].classes
    made = json.loads((folder / "split.json").read_text())
    order = "peftbench-v1" if name == "caltech101" else "tfds-order"
    assert (made["split"], made["sizes"], made["reduced"]) == (f"{order}-16-4-12", [16, 4, 12], True)
    status, told, _ = data("check", str(folder))
    assert status == 0, told
    assert told.startswith(f"ok     {name}: train 16 ")
    assert f"hash {made['hash']}" in told
    assert told.count("\n") == 1


def test_one_line_a_task_tells_what_was_made(prepared, data):
    root, told = prepared
    assert [line.split()[1].rstrip(":") for line in told.splitlines()] == list(TASKS)
    assert all("16 + 4 + 12 images" in line and "split " in line and "hash " in line for line in told.splitlines())
    assert sorted(p.name for p in root.iterdir()) == sorted(TASKS)  # and nothing hidden is left
    status, told, _ = data("check", "vtab", f"dir={root}")
    assert (status, told.count("\n"), told.count("ok ")) == (0, 19, 19)


def test_no_picture_is_in_two_places_and_none_is_changed(prepared, archives):
    """Of jpg sources every file is one of the source's, byte by byte."""
    with zipfile.ZipFile(archives / "eurosat/EuroSAT_RGB.zip") as archive:
        theirs = {archive.read(n): n.split("/")[1] for n in archive.namelist()}
    for path, label in everything(prepared[0] / "eurosat"):
        assert SOURCES["eurosat"].names[label] == theirs[path.read_bytes()]


def test_a_run_is_stamped_with_the_split_that_the_check_prints(prepared, data, cli, tiny, tmp_path):
    root = prepared[0]
    words = [w for w in tiny if not w.startswith("data=")]
    out = tmp_path / "out"
    status, _, error = cli(*words, "method=linear", "data=vtab/svhn", f"data.root={root}", f"output_dir={out}")
    assert status == 0, error
    (record,) = out.glob("*/result.json")
    stamps = json.loads(record.read_text())["stamps"]["data"]
    assert stamps["split"] == "vtab/svhn@tfds-order-16-4-12"
    assert stamps["source"] == f"{SOURCES['svhn'].title}; png"
    assert f"hash {stamps['hash']}" in data("check", "vtab/svhn", f"dir={root}")[1]


@pytest.mark.parametrize("stage", ["tune", "fit", "final"])
def test_the_hash_is_that_of_the_stage(prepared, data, stage):
    from peftbench.data.base import split_hash
    from peftbench.data.vtab.dataset import Vtab

    splits = Vtab("dtd", 47, str(prepared[0])).load()
    wanted = split_hash(*splits.roles(stage))
    assert f"hash {wanted}" in data("check", "vtab/dtd", f"dir={prepared[0]}", f"stage={stage}")[1]
