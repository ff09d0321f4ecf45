"""Adopting a copy that others made."""

from __future__ import annotations

import shutil

import pytest

from peftbench.common.vtab_tasks import ALIASES
from support.places import CALTECH
from support.standins import SIZES, WORDS, tar, zipped
from support.vtab import DAMAGE, noah, one_line, rows

# -- adopting a copy that others made


@pytest.mark.parametrize("alias", ["cifar", *(a for a, name in ALIASES.items() if name == "cifar")])
def test_a_copy_is_adopted_under_any_of_its_names(data, tmp_path, alias):
    theirs = noah(tmp_path / "vtab-1k", alias)
    status, told, error = data("prepare", "vtab/cifar100", "source=folder", f"path={tmp_path}/vtab-1k", *WORDS)
    assert status == 0, error
    ours = tmp_path / "data/vtab/cifar"
    assert "split adopted" in told
    for path in (p for p in theirs.rglob("*") if p.is_file()):
        assert (ours / path.relative_to(theirs)).read_bytes() == path.read_bytes()
    assert data("check", "vtab/cifar")[0] == 0


@pytest.mark.parametrize(
    ("sizes", "words", "name"), [((800, 200, 711), [], "vtab/kitti"), (SIZES, WORDS, "vtab/kitti@adopted-16-4-12")]
)
def test_an_adopted_copy_has_the_hash_of_the_copy_and_a_plain_name_where_it_is_whole(
    data, tmp_path, sizes, words, name
):
    from peftbench.data.base import split_hash
    from peftbench.data.vtab.dataset import Vtab

    noah(tmp_path / "theirs", "kitti", sizes, task="kitti")
    assert data("prepare", "vtab/kitti", "source=folder", f"path={tmp_path}/theirs/kitti", *words)[0] == 0
    theirs = Vtab("kitti", 4, str(tmp_path / "theirs")).load()
    ours = Vtab("kitti", 4, str(tmp_path / "data/vtab")).load()
    assert split_hash(*ours.roles("final")) == split_hash(*theirs.roles("final"))
    assert (theirs.name, ours.name) == ("vtab/kitti", name)


@pytest.mark.parametrize("prefix", ["vtab-1k/", ""])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_copy_may_be_adopted_from_its_archive_or_from_a_folder_of_archives(data, tmp_path, kind, prefix):
    theirs = noah(tmp_path / "vtab-1k", "oxford_pet", task="oxford_iiit_pet")
    files = {f"{prefix}{p.relative_to(theirs.parent)}": p.read_bytes() for p in theirs.rglob("*") if p.is_file()}
    (tmp_path / "shared").mkdir()
    path = tmp_path / f"shared/{'all' if prefix else 'pets'}.{kind}"
    zipped(path, files) if kind == "zip" else tar(path, files)
    place = path if prefix else path.parent
    status, _, error = data("prepare", "vtab/pets", "source=folder", f"path={place}", *WORDS)
    assert status == 0, error
    assert len(rows(tmp_path / "data/vtab/oxford_iiit_pet", "test.txt")) == 12


def test_what_peftbench_made_keeps_the_name_of_its_split_when_it_is_adopted(prepared, data, tmp_path):
    """Else a made split would pass for the official one."""
    status, told, error = data("prepare", "vtab/caltech101", "source=folder", f"path={prepared[0]}", *WORDS)
    assert status == 0, error
    assert "split peftbench-v1-16-4-12" in told
    ours = tmp_path / "data/vtab/caltech101/split.json"
    assert ours.read_bytes() == (prepared[0] / "caltech101/split.json").read_bytes()


def test_another_task_does_not_pass_for_one_when_it_is_adopted(data, tmp_path):
    theirs = noah(tmp_path, "some_task", (20, 4, 12), task="svhn")
    words = ("source=folder", f"path={theirs}", "train=20", "val=4", "test=12")
    one_line(data("prepare", "vtab/cifar", *words), "10 of the 100 classes", "some_task", "looks like another task")
    assert not list((tmp_path / "data").rglob("*.*"))
    assert data("prepare", "vtab/svhn", *words)[0] == 0


OVERLAPS = [d for d in DAMAGE if d.startswith("an image of")]


@pytest.mark.parametrize("damage", OVERLAPS)
def test_a_copy_with_a_picture_in_two_splits_is_adopted_with_a_note(data, tmp_path, damage):
    """The lists that are shared have such pictures of their sources; they are what published numbers are of."""
    folder = noah(tmp_path / "theirs", "eurosat")
    change, parts = DAMAGE[damage]
    change(folder)
    for split in ("train800", "val200"):  # the second copies with them
        for i, path in enumerate(sorted((folder / "images" / split).iterdir()), start=16 * (split == "val200")):
            shutil.copy(path, folder / f"images/train800val200/{i:06d}.jpg")
    status, told, error = data("prepare", "vtab/eurosat", "source=folder", f"path={tmp_path}/theirs", *WORDS)
    assert status == 0, error
    assert "note: " + parts[0] in told
    assert data("check", "vtab/eurosat")[0] == 1


@pytest.mark.parametrize("damage", [d for d in DAMAGE if d not in OVERLAPS])
def test_a_damaged_copy_is_not_adopted_and_leaves_nothing(data, tmp_path, damage):
    folder = noah(tmp_path / "theirs", "eurosat")
    change, parts = DAMAGE[damage]
    change(folder)
    one_line(data("prepare", "vtab/eurosat", "source=folder", f"path={tmp_path}/theirs", *WORDS), *parts)
    assert not list((tmp_path / "data").rglob("*.*"))


def test_the_lists_of_a_copy_must_be_as_long_as_vtabs_unless_told_otherwise(data, tmp_path):
    noah(tmp_path, "eurosat")
    one_line(data("prepare", "vtab/eurosat", "source=folder", f"path={tmp_path}"), "16 images, expected 800")


def test_a_copy_that_lacks_the_task_is_told_with_the_nearest_name(data, tmp_path):
    noah(tmp_path / "theirs", "eurosatt")
    told = data("prepare", "vtab/eurosat", "source=folder", f"path={tmp_path}/theirs")
    one_line(told, "holds no train800.txt of eurosat", "did you mean 'eurosatt'")
    one_line(data("prepare", "vtab/eurosat", "source=folder", "path=/nowhere/at/all"), "/nowhere/at/all", "no such")


# -- the check


@pytest.mark.skipif(not CALTECH.is_dir(), reason=f"{CALTECH} is missing")
def test_the_caltech_sample_is_adopted_with_its_own_sizes(data, tmp_path):
    from peftbench.data.base import split_hash
    from peftbench.data.vtab.dataset import Vtab

    words = ("source=folder", f"path={CALTECH}", "train=800", "val=200", "test=1020")
    status, told, error = data("prepare", "vtab/caltech101", *words)
    assert status == 0, error
    theirs = Vtab("caltech101", 102, str(CALTECH)).load()
    assert f"hash {split_hash(*theirs.roles('final'))}" in told
    ours = Vtab("caltech101", 102, str(tmp_path / "data/vtab")).load()
    assert ours.classes == theirs.classes
    assert split_hash(*ours.roles("tune")) == split_hash(*theirs.roles("tune"))
