"""Data sets and loading: what is in each split, and in which order and form it reaches the model."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench import compose
from peftbench.common.errors import UserError
from peftbench.common.seeds import mix
from peftbench.common.vtab_tasks import ALIASES, GROUPS
from peftbench.config import CONFIGS
from peftbench.data.base import DataSet, Split, Splits, split_hash, stratified
from peftbench.data.digits import Digits
from peftbench.data.fashion_mnist import FashionMNIST
from peftbench.data.folder import Folder
from peftbench.data.images import Images, Indices, Transform, decode_image
from peftbench.data.loading import BatchOrder, Loaders, loaders
from peftbench.data.vtab.dataset import Vtab
from peftbench.runs.build import instantiate

SHARED = Path(__file__).parents[2] / "shared" / "data"
RED, BLUE = (255, 0, 0), (0, 0, 255)


def shared(name: str) -> Path:
    """A folder of the sample data that lies beside the repository; skips the test where it does not."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"the sample data {name} is not beside the repository")
    return SHARED / name


def noise(count: int, size: int = 12, seed: int = 0) -> np.ndarray:
    """`count` RGB images of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def arrays(labels: Sequence[int], prefix: str = "i") -> Split:
    """A split in memory with the given labels."""
    return Split(noise(len(labels)), np.array(labels, dtype=np.int64), [f"{prefix}{i}" for i in range(len(labels))])


def write(path: Path, pixels: np.ndarray | None = None) -> Path:
    """An image file of random (or the given) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(1)[0] if pixels is None else pixels).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], size: int = 12) -> Path:
    """`root/<class>/<number>.png`, so many images of each class."""
    for seed, (name, count) in enumerate(counts.items()):
        for i, pixels in enumerate(noise(count, size, seed)):
            write(root / name / f"{i}.png", pixels)
    return root


def table(root: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("path", "label")) -> Path:
    """`root/labels.csv`, and an image at each path it names."""
    for path, *_ in rows:
        write(root / path)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return root


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


def idx(path: Path, values: np.ndarray) -> None:
    """A file in MNIST's idx format, packed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def fashion(raw: Path, suffix: str = "", labels: np.ndarray | None = None) -> Path:
    """Thirty training and ten test images in four idx files."""
    rng = np.random.default_rng(0)
    for stem, count in (("train", 30), ("t10k", 10)):
        ours = np.arange(count, dtype=np.uint8) % 10 if labels is None or stem == "t10k" else labels
        idx(raw / f"{stem}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        idx(raw / f"{stem}-labels-idx1-ubyte{suffix}", ours)
    return raw


def refuses(dataset: DataSet) -> str:
    """The sentence with which loading is refused."""
    with pytest.raises(UserError) as refusal:
        dataset.load()
    return str(refusal.value)


# -- splits


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


# -- digits


def test_digits_are_split_into_train_val_and_test():
    splits = Digits().load()
    assert [len(s) for s in splits.roles("fit")] == [999, 199, 599]
    assert splits.classes == tuple("0123456789")
    assert splits.train.images.dtype == np.uint8
    assert splits.train.images.shape[1:] == (8, 8)
    assert (splits.train.images.min(), splits.train.images.max()) == (0, 255)


def test_digits_are_always_split_in_the_same_way():
    assert split_hash(*Digits().load().roles("fit")) == split_hash(*Digits().load().roles("fit"))
    names = [n for s in Digits().load().roles("fit") for n in s.names]
    assert len(set(names)) == 1797


# -- folders of images


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    for role, count in (("train", 4), ("val", 2), ("test", 3)):
        class_folders(tmp_path / role, {"cat": count, "dog": count})
    splits = Folder(str(tmp_path)).load()
    assert splits.classes == ("cat", "dog")
    assert [len(s) for s in splits.roles("fit")] == [8, 4, 6]
    assert splits.train.names[0] == "train/cat/0.png"
    assert list(splits.train.labels) == [0] * 4 + [1] * 4


def test_validation_images_are_taken_from_train_where_none_are_given(tmp_path):
    class_folders(tmp_path / "train", {"cat": 10, "dog": 10})
    class_folders(tmp_path / "testing", {"cat": 3, "dog": 3})
    splits = Folder(str(tmp_path), val_fraction=0.2).load()
    assert [len(s) for s in splits.roles("fit")] == [16, 4, 6]
    assert not set(splits.train.names) & set(splits.val.names)
    assert len(Folder(str(tmp_path), val_fraction=0.0).load().train) == 20


def test_plain_class_folders_are_split_by_class(tmp_path):
    class_folders(tmp_path / "pets", {"cat": 10, "dog": 20})
    splits = Folder(str(tmp_path / "pets"), val_fraction=0.1, test_fraction=0.2).load()
    assert [len(s) for s in splits.roles("fit")] == [21, 3, 6]
    assert np.bincount(splits.test.labels).tolist() == [2, 4]
    assert splits.name == "pets-made-0.1-0.2-s0"
    other = Folder(str(tmp_path / "pets"), split_seed=1).load()
    assert list(other.test.names) != list(splits.test.names)


def test_a_class_may_be_called_test(tmp_path):
    class_folders(tmp_path, {"test": 10, "control": 10})
    assert Folder(str(tmp_path)).load().classes == ("control", "test")


def test_images_lie_at_any_depth_of_a_class_folder_and_other_files_are_left_alone(tmp_path):
    class_folders(tmp_path, {"cat": 5})
    write(tmp_path / "cat" / "2024" / "May" / "x.JPG")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no class")
    splits = Folder(str(tmp_path), val_fraction=0.0, test_fraction=0.5).load()
    assert len(splits.train) + len(splits.test) == 6
    assert splits.classes == ("cat",)


def test_a_csv_without_splits_is_split_by_class(tmp_path):
    table(tmp_path, [(f"{i}.png", "ab"[i % 2]) for i in range(20)])
    splits = Folder(str(tmp_path), labels="labels.csv").load()
    assert [len(s) for s in splits.roles("fit")] == [14, 2, 4]


def test_a_csv_with_splits_is_taken_at_its_word(tmp_path):
    roles = ["train", "training", "Train", "val", "valid", "validation", "test", "TESTING "]
    table(tmp_path, [(f"{i}.png", "a", role) for i, role in enumerate(roles)], ("path", "label", "split"))
    splits = Folder(str(tmp_path), labels=str(tmp_path / "labels.csv")).load()
    assert [len(s) for s in splits.roles("fit")] == [3, 3, 2]
    assert list(splits.test.names) == ["6.png", "7.png"]


def test_a_csv_may_begin_with_a_byte_order_mark_and_quote_its_fields(tmp_path):
    write(tmp_path / "a, b.png")
    (tmp_path / "labels.csv").write_bytes(b'\xef\xbb\xbfpath,label\r\n"a, b.png",x\r\n')
    splits = Folder(str(tmp_path), labels="labels.csv").load()
    assert list(splits.train.names) == ["a, b.png"]


def test_labels_are_ordered_as_numbers_then_as_words(tmp_path):
    labels = ["10", "dog", "2", "1", "cat"]
    table(tmp_path, [(f"{i}.png", label) for i, label in enumerate(labels)])
    splits = Folder(str(tmp_path), labels="labels.csv").load()
    assert splits.classes == ("1", "2", "10", "cat", "dog")
    assert list(splits.train.labels) == [2, 4, 1, 0, 3]


def test_labels_of_the_same_number_have_an_order_of_their_own(tmp_path):
    labels = ["1", "0001", "001", "01", "00001"]
    table(tmp_path, [(f"{i}.png", label) for i, label in enumerate(labels)])
    assert Folder(str(tmp_path), labels="labels.csv").load().classes == tuple(sorted(labels))


@pytest.mark.parametrize("role", ["val", "test"])
def test_a_class_that_is_not_trained_on_is_refused(tmp_path, role):
    class_folders(tmp_path / "train", {"cat": 4, "dog": 4})
    class_folders(tmp_path / role, {"cat": 2, "fox": 2})
    told = refuses(Folder(str(tmp_path)))
    assert f"{role}/fox/0.png is labelled 'fox'" in told
    assert "expected one of 2 classes" in told


def test_the_folder_that_holds_no_images_is_named_as_it_is_called(tmp_path):
    class_folders(tmp_path / "train", {"cat": 4})
    (tmp_path / "validation").mkdir()
    assert str(tmp_path / "validation") in refuses(Folder(str(tmp_path)))


def test_rows_that_contradict_each_other_are_refused(tmp_path):
    table(tmp_path, [("a.png", "x", "train"), ("b.png", "x", "")], ("path", "label", "split"))
    assert "all or none" in refuses(Folder(str(tmp_path), labels="labels.csv"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "found nothing"),
        ("file,class\na.png,x\n", "expected the columns path and label, found file, class"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png\n", ":2: expected a path and a label"),
        ("path,label\na.png,x\nmissing.png,x\n", ":3: there is no image"),
        ("path,label,split\na.png,x,holdout\n", ":2: split 'holdout'"),
        ("path,label,split\na.png,x,test\n", "none to train on"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_with_its_line(tmp_path, content, told):
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(content)
    assert told in refuses(Folder(str(tmp_path), labels="labels.csv"))


def test_a_csv_in_another_encoding_is_refused(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes("path,label\na.png,Bär\n".encode("latin-1"))
    told = refuses(Folder(str(tmp_path), labels="labels.csv"))
    assert "labels.csv" in told
    assert "UTF-8" in told


def test_a_split_seed_below_zero_is_refused(tmp_path):
    class_folders(tmp_path, {"cat": 4})
    assert "split_seed=-1" in refuses(Folder(str(tmp_path), split_seed=-1))


# -- the shipped photos


def test_photos_are_25_classes_of_ten_and_ten_images_in_less_than_5_mb():
    dataset = instantiate(compose("data=photos").data)
    splits = dataset.load()
    assert len(splits.classes) == 25
    assert splits.val is None
    for split in (splits.train, splits.test):
        assert np.bincount(split.labels).tolist() == [10] * 25
    assert not {p.read_bytes() for p in splits.train.images} & {p.read_bytes() for p in splits.test.images}
    assert sum(p.stat().st_size for p in [*splits.train.images, *splits.test.images]) < 5e6


def test_every_photo_can_be_read():
    train, _, test = instantiate(compose("data=photos").data).load().roles("fit")
    made = load((train, None, test), transform=Transform(16, "bilinear", (0.5,) * 3, (0.5,) * 3))
    assert (len(made.train.dataset), len(made.test.dataset), made.skipped) == (250, 250, ())


# -- VTAB-1k


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
    assert f"1 of its 4 images are missing, such as {tmp_path / 'images/test/000002.jpg'}" in told


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


# -- Fashion-MNIST


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "."])
def test_fashion_mnist_is_read_from_its_four_files(tmp_path, suffix, place):
    fashion(tmp_path / place, suffix)
    splits = FashionMNIST(str(tmp_path), val_fraction=0.34).load()
    assert [len(s) for s in (splits.train, splits.val, splits.trainval, splits.test)] == [20, 10, 30, 10]
    assert splits.classes[9] == "Ankle boot"
    assert splits.train.images.shape[1:] == (28, 28)
    assert splits.test.names[3] == "t10k/00003"
    assert FashionMNIST(str(tmp_path), val_fraction=0.0).load().val is None


def test_fashion_mnist_packed_and_plain_are_the_same(tmp_path):
    fashion(tmp_path / "plain")
    fashion(tmp_path / "packed", ".gz")
    plain, packed = (FashionMNIST(str(tmp_path / n)).load() for n in ("plain", "packed"))
    assert split_hash(*plain.roles("fit")) == split_hash(*packed.roles("fit"))


def test_missing_files_of_fashion_mnist_are_named(tmp_path):
    fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    told = refuses(FashionMNIST(str(tmp_path)))
    assert "t10k-labels-idx1-ubyte" in told
    assert "data.download=true" in told


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_a_truncated_file_of_fashion_mnist_is_refused(tmp_path, suffix, kind):
    path = fashion(tmp_path, suffix) / f"train-{kind}-ubyte{suffix}"
    path.write_bytes(path.read_bytes()[:-5])
    told = refuses(FashionMNIST(str(tmp_path)))
    assert "train" in told
    assert "damaged" in told


def test_fashion_mnist_with_more_labels_than_images_is_refused(tmp_path):
    fashion(tmp_path, labels=np.zeros(31, dtype=np.uint8))
    assert "30 train images but 31 labels" in refuses(FashionMNIST(str(tmp_path)))


def test_a_label_of_fashion_mnist_outside_the_classes_is_refused(tmp_path):
    fashion(tmp_path, labels=np.array([*range(10)] * 2 + [*range(9), 10], dtype=np.uint8))
    assert "label 10; expected 0 to 9" in refuses(FashionMNIST(str(tmp_path)))


@pytest.mark.parametrize("fraction", [-0.5, 1.0, 1.5])
def test_a_validation_fraction_of_fashion_mnist_outside_0_to_1_is_refused(tmp_path, fraction):
    fashion(tmp_path)
    assert f"val_fraction={fraction}" in refuses(FashionMNIST(str(tmp_path), val_fraction=fraction))


# -- decoding


def halves(width: int = 8, height: int = 4) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def pixel(path: Path, x: int, y: int, size: int = 8) -> tuple[int, ...]:
    return tuple(int(v) for v in decode_image(path, size, "nearest")[:, y, x])


@pytest.mark.parametrize(
    ("orientation", "red", "blue"),
    [(1, (0, 4), (7, 4)), (2, (7, 4), (0, 4)), (3, (7, 4), (0, 4)), (6, (4, 0), (4, 7)), (8, (4, 7), (4, 0))],
)
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation, red, blue):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().save(tmp_path / "x.png", exif=exif)
    assert (pixel(tmp_path / "x.png", *red), pixel(tmp_path / "x.png", *blue)) == (RED, BLUE)


@pytest.mark.parametrize("kind", [5, 12])
@pytest.mark.parametrize("tag", [0x010E, 0xA005])
def test_damaged_exif_does_not_stop_an_image_whose_pixels_are_whole(tmp_path, tag, kind):
    entries = [(0x0112, 3, 1, b"\6\0\0\0"), (tag, kind, 1, b"\0\0\0\0")]
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + body + b"\0" * 4
    halves(16, 16).save(tmp_path / "x.jpg", exif=exif, quality=100, subsampling=0)
    made = decode_image(tmp_path / "x.jpg", 16, "nearest").astype(int)
    assert np.abs(made[:, 2, 8] - RED).max() < 30
    assert np.abs(made[:, 13, 8] - BLUE).max() < 30


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_grey_images_become_three_equal_channels(tmp_path):
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    for made in (ramp, saved(tmp_path / "l.png", Image.fromarray(ramp))):
        assert (decode_image(made, 8, "bicubic") == ramp).all()
    both = Image.merge("LA", [Image.fromarray(ramp), Image.new("L", (8, 8), 7)])
    assert (decode_image(saved(tmp_path / "la.png", both), 8, "bicubic") == ramp).all()
    bits = Image.fromarray(ramp > 100)
    assert set(np.unique(decode_image(saved(tmp_path / "1.png", bits), 8, "nearest"))) == {0, 255}


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bit_grey_keeps_its_shades(tmp_path, name):
    shades = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
    path = saved(tmp_path / name, Image.fromarray(shades * 257))
    assert (decode_image(path, 8, "nearest") == shades).all()


def test_sixteen_bit_grey_of_the_other_byte_order_keeps_its_shades(tmp_path):
    shades = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
    rows = (shades * 257).astype(">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 65535\n" + rows)
    assert (decode_image(tmp_path / "x.pgm", 8, "nearest") == shades).all()


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_cmyk_becomes_rgb(tmp_path, name):
    path = saved(tmp_path / name, Image.new("RGB", (8, 8), RED).convert("CMYK"))
    assert np.abs(decode_image(path, 8, "nearest")[:, 4, 4].astype(int) - RED).max() < 10


def test_palettes_become_rgb_with_transparency_or_without(tmp_path):
    paletted = halves().quantize(4)
    assert pixel(saved(tmp_path / "p.png", paletted), 0, 0) == RED
    for name, transparency in (("index.png", 0), ("alpha.png", bytes([0, 128, 255]))):
        path = saved(tmp_path / name, paletted, transparency=transparency)
        assert {pixel(path, 0, 0), pixel(path, 7, 0)} == {RED, BLUE}


def test_transparency_is_dropped_from_rgba(tmp_path):
    path = saved(tmp_path / "x.png", Image.new("RGBA", (8, 8), (*RED, 40)))
    assert pixel(path, 3, 3) == RED


def test_of_an_animation_the_first_image_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for name in ("x.gif", "x.webp", "x.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(np.subtract(pixel(tmp_path / name, 4, 4), RED)).max() < 10


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_an_image_is_squashed_to_a_square_without_a_crop(tmp_path, interpolation):
    path = saved(tmp_path / "x.png", halves(30, 10))
    made = decode_image(path, 8, interpolation)
    assert (made.shape, made.dtype) == ((3, 8, 8), np.uint8)
    assert (tuple(made[:, 4, 0]), tuple(made[:, 4, 7])) == (RED, BLUE)


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 24)[0]).convert("P" if form == "GIF" else "RGB").save(buffer, form)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_an_image_cut_off_anywhere_is_read_or_refused_by_name(tmp_path, form):
    whole = encoded(form)
    path = tmp_path / "cut.png"
    refused = 0
    for length in [*range(0, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:length])
        try:
            images(path)
        except UserError as refusal:
            refused += str(refusal).startswith(f"{path}: cannot be read as an image")
    assert refused > 10


@given(form=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP"]), data=st.data())
@settings(deadline=None, max_examples=60)
def test_an_image_with_a_wrong_byte_is_read_or_refused(tmp_path_factory, form, data):
    content = bytearray(encoded(form))
    place = data.draw(st.integers(32, len(content) - 1))  # behind the width and height, which may ask for gigabytes
    content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "wrong.img"
    path.write_bytes(content)
    with suppress(UserError):
        images(path)


def images(*paths: Path, on_error: str = "refuse", memory_gb: float = 1.0) -> Images:
    split = Split(list(paths), np.arange(len(paths)), [p.name for p in paths])
    plain = Transform(16, "bicubic", (0.5,) * 3, (0.5,) * 3)
    made = Images(split, plain, on_error, memory_gb, lambda done, of: None)
    made.load()
    return made


@pytest.fixture
def damaged(tmp_path) -> list[Path]:
    """Four images, the second a text file and the third cut off."""
    paths = [write(tmp_path / f"{i}.png", pixels) for i, pixels in enumerate(noise(4, 32))]
    paths[1].write_text("<html>not found</html>")
    paths[2].write_bytes(paths[2].read_bytes()[:500])
    return paths


def test_damaged_images_are_refused_by_name(damaged):
    with pytest.raises(UserError) as refusal:
        images(*damaged)
    assert str(refusal.value).startswith(f"{damaged[1]}: cannot be read as an image")
    assert "data.on_error=skip" in str(refusal.value)


def test_a_damaged_image_that_is_read_from_disk_each_time_is_refused_when_its_turn_comes(damaged):
    made = images(*damaged, memory_gb=0.0)
    with pytest.raises(UserError, match=r"2\.png: cannot be read"):
        made.__getitems__(Indices([0, 2], None))


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_damaged_images_are_left_out_and_named(damaged, memory_gb):
    made = images(*damaged, on_error="skip", memory_gb=memory_gb)
    assert made.skipped == [str(damaged[1]), str(damaged[2])]
    assert len(made) == 2
    pixels, labels, _ = made.__getitems__(Indices([0, 1], None))
    assert labels.tolist() == [0, 3]
    assert (pixels[1].numpy() == decode_image(damaged[3], 16, "bicubic")).all()


def test_a_split_of_nothing_but_damaged_images_is_refused(damaged):
    with pytest.raises(UserError, match="none of the 2 images can be read"):
        images(*damaged[1:3], on_error="skip")


def test_a_file_that_went_away_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png"):
        images(tmp_path / "gone.png")


# -- the order of batches

orders = {
    "size": st.integers(1, 70),
    "per_rank": st.integers(1, 9),
    "world": st.integers(1, 4),
    "seed": st.integers(0, 2**40),
    "epoch": st.integers(0, 30),
}


def order(size: int, batch: int, seed: int = 0, place: tuple[int, int] = (0, 0), **more: object) -> list[Indices]:
    return list(BatchOrder(size, batch, seed, **({"shuffle": True} | more), place=lambda: place))


@given(**orders)
@settings(deadline=None)
def test_an_epoch_shows_every_image_once_but_for_a_trailing_batch_that_is_too_small(size, per_rank, world, seed, epoch):
    batch = per_rank * world
    seen = [i for rank in range(world) for b in order(size, batch, seed, (epoch, 0), rank=rank, world=world) for i in b]
    rest = size % batch
    dropped = rest if size > batch and rest < max(2, world) else 0
    assert len(seen) == len(set(seen)) == size - dropped
    assert set(seen) <= set(range(size))


@given(**orders)
@settings(deadline=None)
def test_the_ranks_share_out_each_batch(size, per_rank, world, seed, epoch):
    batch = per_rank * world
    shares = [order(size, batch, seed, (epoch, 0), rank=rank, world=world) for rank in range(world)]
    whole = order(size, batch, seed, (epoch, 0))
    assert len({len(s) for s in shares}) == 1
    for parts, together in zip(zip(*shares, strict=True), whole, strict=False):
        assert sorted(i for part in parts for i in part) == sorted(together)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        if size >= world:
            assert min(map(len, parts)) > 0


@given(**orders, done=st.integers(0, 80), shuffle=st.booleans())
@settings(deadline=None)
def test_a_resumed_order_is_the_rest_of_the_whole_one(size, per_rank, world, seed, epoch, done, shuffle):
    batch = per_rank * world
    whole, rest = (
        order(size, batch, seed, (epoch, at), rank=world - 1, world=world, shuffle=shuffle) for at in (0, done)
    )
    assert rest == whole[done:]
    assert [b.seed for b in rest] == [b.seed for b in whole[done:]]


@given(epochs=st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_epochs_and_seeds_differ_and_each_repeats_itself(epochs, seed):
    first, second = (order(40, 40, seed, (e, 0)) for e in epochs)
    assert first == order(40, 40, seed, (epochs[0], 0))
    assert first != second
    assert first[0].seed != second[0].seed
    assert first != order(40, 40, seed + 1, (epochs[0], 0))


def test_every_batch_rank_and_epoch_has_a_seed_of_its_own():
    seeds = [b.seed for e in range(5) for r in range(2) for b in order(40, 4, 0, (e, 0), rank=r, world=2)]
    assert len(seeds) == len(set(seeds)) == 100


def test_evaluation_goes_through_the_images_as_they_lie():
    made = order(10, 4, shuffle=False)
    assert made == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.seed for b in made] == [None] * 3


def test_a_limit_shortens_the_epoch():
    assert len(order(100, 10, limit=3)) == len(BatchOrder(100, 10, 0, True, limit=3)) == 3
    assert len(order(20, 10, limit=3)) == 2


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
)
def test_mixed_seeds_are_stable_and_differ(a, b):
    assert mix(*a) == mix(*a)
    assert 0 <= mix(*a) < 2**63
    if a[:4] != b[:4] and len(a) == len(b):
        assert mix(*a) != mix(*b)


# -- loaders


def load(roles: tuple[Split, Split | None, Split | None], **more: object) -> Loaders:
    transform = more.pop("transform", None) or plan(str(more.pop("augment", "none")))
    given = {"batch_size": 8, "eval_batch_size": 8, "seed": 3}
    return loaders(roles, transform, **(given | more))


def plan(augment: str) -> Transform:
    return Transform(16, "bilinear", (0.5,) * 3, (0.5,) * 3, augment)


@pytest.fixture
def files(tmp_path) -> Split:
    """Twenty image files, each of a class of its own."""
    paths = [write(tmp_path / f"{i:02d}.png", pixels) for i, pixels in enumerate(noise(20, 24))]
    return Split(paths, np.arange(20), [p.name for p in paths])


def drawn(made: Loaders, epoch: int = 0, done: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made.order.place = lambda: (epoch, done)
    return [(batch.images, batch.targets) for batch in made.train]


def same(a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


AUGMENTS = ["none", "flip", "crop", "rrc", "trivial"]


@pytest.mark.parametrize("augment", AUGMENTS)
def test_images_in_memory_and_from_disk_make_the_same_batches(files, augment):
    kept, read = (load((files, None, None), augment=augment, memory_gb=gb) for gb in (1.0, 0.0))
    for made in (kept, read):
        made.load(lambda done, of: None)
    assert kept.train.dataset.pixels is not None
    assert read.train.dataset.pixels is None
    assert same(drawn(kept), drawn(read))


@pytest.mark.parametrize("augment", AUGMENTS)
def test_a_batch_is_uint8_images_of_the_input_size_and_their_labels(files, augment):
    made = drawn(load((files, None, None), augment=augment))
    assert [tuple(x.shape) for x, _ in made] == [(8, 3, 16, 16), (8, 3, 16, 16), (4, 3, 16, 16)]
    assert {x.dtype for x, _ in made} == {torch.uint8}
    assert sorted(y for _, labels in made for y in labels.tolist()) == list(range(20))


def test_images_keep_their_labels(files):
    for pixels, labels in drawn(load((files, None, None))):
        for image, label in zip(pixels, labels, strict=True):
            assert (image.numpy() == decode_image(files.images[int(label)], 16, "bilinear")).all()


@pytest.mark.parametrize("augment", AUGMENTS[1:])
def test_augmentation_repeats_for_a_seed_and_differs_between_epochs_and_seeds(files, augment):
    made = load((files, None, None), augment=augment)
    assert same(drawn(made), drawn(made))
    assert same(drawn(made), drawn(load((files, None, None), augment=augment)))
    assert same(drawn(made)[1:], drawn(made, done=1))
    first, second, other = (
        by_label(d) for d in (drawn(made), drawn(made, 1), drawn(load((files, None, None), augment=augment, seed=4)))
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def by_label(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    pixels, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    return pixels[labels.argsort()]


def test_augmentation_leaves_the_global_random_state_alone(files):
    made = load((files, None, None), augment="trivial")
    before = torch.get_rng_state()
    made.train.dataset.__getitems__(Indices(range(8), 5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("role", [1, 2])
def test_validation_and_test_images_are_not_augmented(files, role):
    roles = [files, None, None]
    roles[role] = files
    made = load(tuple(roles), augment="rrc")
    loader = (made.val, made.test)[role - 1]
    batches = [(batch.images, batch.targets) for batch in loader]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(20))
    expected = np.stack([decode_image(p, 16, "bilinear") for p in files.images])
    assert (torch.cat([pixels for pixels, _ in batches]).numpy() == expected).all()


def test_worker_processes_make_the_same_batches(files):
    here, there = (load((files, None, None), augment="rrc", memory_gb=0.0, workers=n) for n in (0, 2))
    assert same(drawn(here), drawn(there))


def test_ranks_see_parts_of_the_same_batches(files):
    parts = [drawn(load((files, None, None), rank=rank, world=2)) for rank in range(2)]
    for (_, whole), (_, a), (_, b) in zip(drawn(load((files, None, None))), *parts, strict=True):
        assert sorted(whole.tolist()) == sorted(a.tolist() + b.tolist())


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_ranks_evaluate_every_image_once_even_when_one_is_left_over(files, memory_gb):
    odd = files.take(range(17))
    made = [load((files, odd, None), rank=r, world=2, eval_batch_size=8, memory_gb=memory_gb) for r in range(2)]
    seen = [y for one in made for batch in one.val for y in batch.targets.tolist()]
    assert sorted(seen) == list(range(17))


@pytest.mark.slow
def test_two_processes_evaluate_a_last_batch_of_one_image(cli, tiny):
    words = ["trainer=ddp", "trainer.accelerator=cpu", "data.eval_batch_size=299"]  # of 599 test images
    status, out, err = cli(*tiny, "method=linear", *words, "trainer.max_batches=3")
    assert (status, err) == (0, ""), out


def test_a_batch_that_cannot_be_shared_evenly_is_refused(files):
    with pytest.raises(UserError, match=r"data\.batch_size=9: cannot be shared evenly by 2 devices"):
        load((files, None, None), batch_size=9, world=2)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_skipped_images_of_every_role_are_named(files, memory_gb):
    for index in (3, 15):
        files.images[index].write_bytes(b"no image")
    roles = (files.take(range(10)), files.take(range(10, 20)), None)
    made = load(roles, batch_size=3, on_error="skip", memory_gb=memory_gb)
    assert made.skipped == (str(files.images[3]), str(files.images[15]))
    assert (made.order.size, len(made.train.dataset), len(made.val.dataset)) == (9, 9, 9)
    labels = [y for _, ys in drawn(made) for y in ys.tolist()]
    assert sorted(labels) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_reading_images_is_watched_to_the_end(files):
    seen = []
    load((files, None, None)).load(lambda done, of: seen.append((done, of)))
    assert seen == [(i, 20) for i in range(1, 21)]
