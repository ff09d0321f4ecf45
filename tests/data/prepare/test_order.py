"""The order in which images are drawn: that of TFDS, and our own."""

from __future__ import annotations

import hashlib
import json

import pytest

from peftbench.common.vtab_tasks import TASKS
from peftbench.data.prepare.drawing import OURS, TFDS, Entry, key_hasher, ordered_entries, pools_of_roles
from peftbench.data.prepare.sources import SOURCES
from support.standins import WORDS
from support.vtab import found, one_line


def test_the_order_is_that_of_tfds():
    """The first training images of CIFAR as TFDS gives them, which its documentation and Ray's show."""
    entries = [Entry(str(i), 0, i) for i in range(50_000)]
    first = [16399, 1680, 47917, 17307, 27051, 48736, 26263, 1456, 19135, 31598, 12970, 4223]
    assert [e.place for e in ordered_entries(entries, "train", TFDS)[:12]] == first


# Hashes over keys and labels, in order, of what TFDS 4.9.10's own builders and shuffler and task_adaptation 0.1's own
# labels make of the stand-ins: printed by scripts/tfds_order.py.
BY_TFDS = [
    ("cifar", "train", "51bc3786b9516314"),
    ("cifar", "test", "89371788d0845940"),
    ("dtd", "train", "d03ceda91677acc9"),
    ("dtd", "validation", "4fc9c1531ab41d5b"),
    ("dtd", "test", "b535ff03d9e7807d"),
    ("oxford_flowers102", "train", "8872e925508a32aa"),
    ("oxford_flowers102", "validation", "0c4c2d98b620043f"),
    ("oxford_flowers102", "test", "54623df6adc06e8e"),
    ("oxford_iiit_pet", "train", "1ebff3401af7cf3e"),
    ("oxford_iiit_pet", "test", "ca6ea7cea3659816"),
    ("svhn", "train", "27610e06c4fb4dbf"),
    ("svhn", "test", "275d0e26ab4b0270"),
    ("sun397", "train", "d15eeffd153ad12e"),
    ("sun397", "validation", "b1b56f8a83723691"),
    ("sun397", "test", "f74e19afa3e9fbb7"),
    ("patch_camelyon", "train", "174a32c3daf14360"),
    ("patch_camelyon", "validation", "f683178503dd0b51"),
    ("patch_camelyon", "test", "9faaa9093a66ec7e"),
    ("eurosat", "train", "7859081cb80c8dd5"),
    ("resisc45", "train", "8ea17e830d278caa"),
    ("diabetic_retinopathy", "train", "24698a94b79bf99b"),
    ("diabetic_retinopathy", "validation", "513b8c67092a7ffa"),
    ("diabetic_retinopathy", "test", "cc9b185b0a55eb36"),
    ("clevr_count", "train", "b16f4a6adbec6bd8"),
    ("clevr_count", "validation", "2a889603e0b95cd9"),
    ("clevr_dist", "train", "cb0c4590e11b17b3"),
    ("clevr_dist", "validation", "56d1391455362743"),
    ("dmlab", "train", "75594cfca810a90f"),
    ("dmlab", "validation", "0aae801720f3afb6"),
    ("dmlab", "test", "3c483c210cf063e6"),
    ("kitti", "train", "16f92cf4edd563da"),
    ("kitti", "validation", "c371086afa5b55f3"),
    ("kitti", "test", "da5f3c9881662524"),
    ("dsprites_loc", "train", "dd587799121a1eb5"),
    ("dsprites_ori", "train", "f7fa35d4af691074"),
    ("smallnorb_azi", "train", "1bc012074abff008"),
    ("smallnorb_azi", "test", "4330dff00e54817a"),
    ("smallnorb_ele", "train", "f08f7243bbd55f08"),
    ("smallnorb_ele", "test", "4087265339c2827e"),
]


@pytest.mark.parametrize(("name", "split", "hashed"), BY_TFDS)
def test_tfds_gives_the_same_images_and_labels_in_the_same_order(archives, name, split, hashed):
    source = next(s for s in SOURCES if name in SOURCES[s].tasks)
    ours = ordered_entries(found(archives, source, name)[0][split], split, TFDS)
    text = "\n".join(f"{entry.key} {entry.label}" for entry in ours)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == hashed


def test_tfds_was_asked_for_every_task_but_the_one_it_cannot_tell():
    assert {name for name, _, _ in BY_TFDS} == set(TASKS) - {"caltech101"}


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("0", 276215275525073243129443018166533317850),
        ("123455678901234567890", 6876359009333865997613257802033240610),
        ("foo", 229609063533823256041787889330700985560),
    ],
)
def test_keys_are_hashed_as_tfds_tests_that_they_are(key, hashed):
    assert int.from_bytes(key_hasher(TFDS, "")(key)) == hashed


def test_pools_are_cut_as_task_adaptation_cuts_them():
    splits = {"train": [Entry(str(i), 0, i) for i in range(73_257)], "test": []}
    cut = pools_of_roles(splits, SOURCES["svhn"].cut, TFDS)
    assert [len(cut[r]) for r in ("train", "val", "test")] == [65_931, 7_326, 0]
    assert {e.place for e in cut["train"]}.isdisjoint(e.place for e in cut["val"])


def test_our_own_order_depends_on_the_split_and_on_nothing_else():
    entries = [Entry(f"a/{i}.jpg", 0, i) for i in range(100)]
    first = ordered_entries(entries, "train", OURS)
    assert first == ordered_entries(entries[::-1], "train", OURS)
    assert first != ordered_entries(entries, "test", OURS)
    by_hand = sorted(entries, key=lambda e: hashlib.sha256(f"peftbench-v1/train/{e.key}".encode()).digest())
    assert first == by_hand


def test_the_split_may_be_chosen_and_bears_its_name(archives, data, tmp_path):
    words = ["vtab/eurosat", f"archives={archives}", *WORDS]
    assert data("prepare", *words, "split=peftbench-v1", f"dir={tmp_path}/a")[0] == 0
    assert data("prepare", *words, f"dir={tmp_path}/b")[0] == 0
    a, b = (json.loads((tmp_path / x / "eurosat/split.json").read_text()) for x in "ab")
    assert (a["split"], b["split"]) == ("peftbench-v1-16-4-12", "tfds-order-16-4-12")
    assert a["hash"] != b["hash"]
    one_line(data("prepare", *words, "split=official"), "split=official", "tfds-order or peftbench-v1")
    one_line(data("prepare", "vtab/caltech101", *words[1:], "split=tfds-order"), "split=tfds-order", "source=folder")


def test_the_same_files_give_the_same_split_again(archives, prepared, data, tmp_path):
    assert data("prepare", "vtab/dmlab", f"archives={archives}", f"dir={tmp_path}", *WORDS)[0] == 0
    assert (tmp_path / "dmlab/split.json").read_bytes() == (prepared[0] / "dmlab/split.json").read_bytes()
