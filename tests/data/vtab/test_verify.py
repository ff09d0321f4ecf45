"""`peftbench data check`: what it finds, and what it takes for no fault."""

from __future__ import annotations

import shutil

import pytest

from support.places import CALTECH
from support.vtab import DAMAGE, beyond, noah, one_line, one_line_less


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_check_finds_what_is_wrong_in_one_line(task, data, damage):
    change, parts = DAMAGE[damage]
    change(task)
    status, told, _ = data("check", str(task))
    assert status == 1
    assert told.count("\n") == 1
    assert told.startswith("wrong  eurosat: ")
    for part in parts:
        assert part in told


def test_a_changed_label_is_found_by_the_hash_that_was_noted(task, data):
    path = task / "test.txt"
    first, _, rest = path.read_text().partition("\n")
    path.write_text(first[:-1] + str((int(first[-1]) + 1) % 10) + "\n" + rest)
    status, told, _ = data("check", str(task))
    assert status == 1
    assert "not as they were when the task was prepared" in told


@pytest.mark.parametrize("text", ["", "{}", '{"sizes": [1, 2]}', "[]", "\x00"])
def test_a_damaged_note_of_the_split_is_named_by_the_check_and_by_a_run(task, data, cli, tiny, text):
    (task / "split.json").write_text(text)
    status, told, _ = data("check", str(task))
    assert status == 1
    assert f"{task / 'split.json'}: is not what peftbench data prepare wrote" in told
    words = [w for w in tiny if not w.startswith("data=")]
    status, _, error = cli(*words, "method=linear", "data=vtab/eurosat", f"data.root={task.parent}")
    assert status != 0
    assert "split.json" in error


def test_another_task_in_the_folder_is_found(task, data):
    assert data("check", str(task.rename(task.with_name("svhn"))))[1].count("says that this is eurosat") == 1


def test_a_picture_twice_in_one_split_is_worth_a_note(data, tmp_path):
    folder = noah(tmp_path, "eurosat", (800, 200, 40))
    shutil.copy(folder / "images/test/000001.jpg", folder / "images/test/000002.jpg")
    status, told, _ = data("check", str(folder))
    assert status == 1  # for the size of test
    assert "note: 1 picture of test more than once, 1 of them under different labels" in told
    assert "test.txt: 40 images, expected 5,400" in told


@pytest.mark.slow
def test_999_lines_are_counted(data, tmp_path):
    folder = noah(tmp_path, "kitti", (800, 200, 711), task="kitti")
    assert data("check", str(folder))[0] == 0
    one_line_less(folder)
    status, told, _ = data("check", str(folder))
    assert status == 1
    assert "train800val200.txt: 999 images, expected 1,000" in told


@pytest.mark.slow
def test_a_few_twins_are_no_fault_where_the_source_has_them(data, tmp_path):
    folder = noah(tmp_path, "oxford_iiit_pet", (800, 200, 3_669), task="oxford_iiit_pet")
    for i in range(20):
        shutil.copy(folder / f"images/train800/{i:06d}.jpg", folder / f"images/test/{i:06d}.jpg")
    status, told, _ = data("check", str(folder))
    assert status == 0, told
    assert "note: 20 pictures of train are in test too" in told
    shutil.copy(folder / "images/train800/000020.jpg", folder / "images/test/000020.jpg")
    assert data("check", str(folder))[0] == 1


@pytest.mark.slow
def test_classes_of_one_size_are_counted(data, tmp_path):
    folder = noah(tmp_path, "dtd", (800, 200, 1_880), task="dtd")
    assert data("check", str(folder))[0] == 0
    (folder / "test.txt").write_text((folder / "test.txt").read_text().replace("000050.jpg 3", "000050.jpg 4"))
    status, told, _ = data("check", str(folder))
    assert status == 1
    assert "test.txt: class 3 has 39 images, expected 40 of each" in told


def test_a_copy_may_be_compared_with_another_by_its_labels(prepared, task, data, tmp_path):
    lines = (task / "train800.txt").read_text().splitlines()
    (task / "train800.txt").write_text("\n".join(lines[::-1]) + "\n")  # another sequence of the same images
    status, told, _ = data("check", str(prepared[0] / "eurosat"), f"like={task.parent}")
    assert status == 0, told
    assert f"note: the labels of each list are those of {task}" in told
    beyond(task)
    status, told, _ = data("check", "vtab/eurosat", f"dir={prepared[0]}", f"like={task}")
    assert status == 1
    assert "test.txt: its labels are not those of" in told
    one_line(data("check", str(task), f"like={tmp_path}/none"), f"{tmp_path}/none", "is missing")


def test_tasks_that_are_not_there_are_wrong_only_when_asked_for(task, data):
    assert data("check", f"dir={task.parent}")[0] == 0
    status, told, _ = data("check", "vtab", f"dir={task.parent}")
    assert status == 1
    assert told.count("\n") == 19
    assert told.count("is not in") == 18
    one_line(data("check"), "holds no task of VTAB-1k")


def test_a_folder_of_no_known_task_is_checked_for_what_can_be(data, tmp_path):
    folder = noah(tmp_path, "mine", (800, 200, 7))
    status, told, _ = data("check", str(folder))
    assert status == 0
    assert told.startswith("ok     mine: train 800 ")
    one_line(data("check", str(tmp_path / "mine/images")), "holds neither")


@pytest.mark.skipif(not CALTECH.is_dir(), reason=f"{CALTECH} is missing")
def test_the_caltech_sample_is_checked(data):
    status, told, _ = data("check", str(CALTECH))
    assert status == 1
    assert told.startswith("wrong  caltech101: train 800 (102 classes), val 200 (94 classes)")
    assert "test.txt: 1,020 images, expected 6,084 or 6,085" in told
    assert "val200.txt: 8 of the 102 classes have no image" in told
    assert "is missing" not in told


def test_no_command_of_data_needs_torch(tmp_path):
    import subprocess
    import sys

    noah(tmp_path, "svhn")
    code = (
        "import sys; from peftbench.cli.main import main; "
        f"main(['data', 'check', {str(tmp_path / 'svhn')!r}]); main(['data', 'sources']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
