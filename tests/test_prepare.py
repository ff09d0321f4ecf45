"""`peftbench data prepare|check|sources`, on small stand-ins of the sources' true formats."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import json
import re
import resource
import shutil
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import standins
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from standins import SIZES, WORDS, picture, tar, zipped

from peftbench.common.errors import UserError
from peftbench.common.vtab_tasks import ALIASES, TASKS
from peftbench.data.prepare.download import fetch_file
from peftbench.data.prepare.drawing import OURS, TFDS, Entry, key_hasher, ordered_entries, pools_of_roles
from peftbench.data.prepare.readers.retinopathy import btgraham
from peftbench.data.prepare.readers.tfrecord import crc32c, masked_checksum, parse_example, read_records
from peftbench.data.prepare.sources import SOURCES
from peftbench.data.prepare.tree import open_tree

SHARED = Path(__file__).parents[2] / "shared" / "data" / "caltech101-vtab1k-like"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`data(verb, *words)`: peftbench data, with `<tmp_path>/data` for the data's place."""
    from peftbench.cli.main import main

    monkeypatch.setenv("PEFTBENCH_DATA", str(tmp_path / "data"))

    def call(*words: str) -> tuple[int, str, str]:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = main(["data", *words])
        return status, out.getvalue(), err.getvalue()

    return call


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins of every source; they are read, never written."""
    pytest.importorskip("h5py")
    return standins.make_all(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def prepared(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All 19 tasks, made from the stand-ins: (their folder, what was told)."""
    from peftbench.cli.main import main

    root = tmp_path_factory.mktemp("vtab")
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main(["data", "prepare", "vtab", f"dir={root}", f"archives={archives}", *WORDS]) == 0, told.getvalue()
    return root, told.getvalue()


@pytest.fixture
def task(prepared: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of a prepared task, eurosat, to be damaged."""
    return Path(shutil.copytree(prepared[0] / "eurosat", tmp_path / "copies" / "eurosat"))


@contextlib.contextmanager
def disk_full_beyond(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(folder: Path, file: str) -> list[tuple[Path, int]]:
    lines = (line.rsplit(" ", 1) for line in (folder / file).read_text().splitlines())
    return [(folder / name, int(label)) for name, label in lines]


def everything(folder: Path) -> list[tuple[Path, int]]:
    return rows(folder, "train800val200.txt") + rows(folder, "test.txt")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def one_line(told: tuple[int, str, str], *parts: str, status: int = 2) -> None:
    """The command failed with one sentence on stderr that has these parts."""
    assert told[0] == status, told
    assert told[2].count("\n") == 1
    assert told[2].startswith("peftbench: ")
    for part in parts:
        assert part in told[2]


# -- all tasks, from every format


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


# -- labels and pixels of each format


def found(archives: Path, source: str, task: str) -> tuple[dict, object]:
    """The entries that a reader finds, by split, and the reader."""
    import importlib

    from peftbench.data.prepare.source_files import SourceFiles

    module = importlib.import_module(f"peftbench.data.prepare.readers.{SOURCES[source].reader}")
    reader = module.Reader(SourceFiles(source, SOURCES[source], archives), task)
    return reader.splits(), reader


def test_cifar_takes_the_fine_label_and_keeps_every_pixel(archives):
    with tarfile.open(archives / "cifar100/cifar-100-binary.tar.gz") as archive:
        content = archive.extractfile("cifar-100-binary/train.bin").read()
    raw = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3074)
    splits, reader = found(archives, "cifar100", "cifar")
    assert [(e.key, e.label) for e in splits["train"]] == [(str(i), int(row[1])) for i, row in enumerate(raw)]
    assert reader.classes[:2] == ("fine_0", "fine_1")
    for at, content in reader.pictures(splits["train"][:3]):
        image = np.asarray(Image.open(io.BytesIO(content)))
        assert (image[..., 0].ravel() == raw[at, 2:1026]).all()  # the red channel is stored first
        assert (image[..., 2].ravel() == raw[at, 2050:]).all()


def test_caltech_has_102_classes_in_lower_case_order_and_trains_on_at_most_thirty_of_each(archives):
    splits, reader = found(archives, "caltech101", "caltech101")
    assert reader.classes[:3] == ("accordion", "BACKGROUND_Google", "Faces")
    assert len(splits["train"]) == 102 * 2
    assert len(splits["test"]) == 102
    assert not any(e.key.endswith("tmp") for e in splits["train"] + splits["test"])


def test_flowers_number_their_classes_from_one(archives):
    from scipy.io import loadmat

    labels = loadmat(archives / "flowers102/imagelabels.mat")["labels"][0]
    splits, _ = found(archives, "flowers102", "oxford_flowers102")
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [24, 12, 24]
    for entry in splits["train"]:
        assert entry.label == labels[int(entry.key[6:11]) - 1] - 1


def test_svhn_calls_ten_zero(archives):
    from scipy.io import loadmat

    theirs = loadmat(archives / "svhn/train_32x32.mat")
    splits, reader = found(archives, "svhn", "svhn")
    assert [e.label for e in splits["train"][:11]] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    ((_, content),) = reader.pictures(splits["train"][7:8])
    assert (np.asarray(Image.open(io.BytesIO(content))) == theirs["X"][..., 7]).all()


def test_pets_keep_their_files_whatever_they_are(archives):
    splits, reader = found(archives, "oxford_iiit_pet", "oxford_iiit_pet")
    assert len(reader.classes) == 37
    assert all(reader.classes[e.label] == e.key.rpartition("_")[0] for e in splits["test"])
    kinds = {content[:3] for _, content in reader.pictures(splits["train"])}
    assert kinds == {b"\xff\xd8\xff", b"\x89PN"}


def test_sun_leaves_out_what_cannot_be_decoded_and_has_classes_in_classes(archives, prepared):
    splits, reader = found(archives, "sun397", "sun397")
    assert reader.classes[:3] == ("/a/abbey", "/b/bus_station/indoor", "/b/bus_station/outdoor")
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [30, 10, 20]
    suffixes = {Image.open(path).format: path.suffix for path, _ in everything(prepared[0] / "sun397")}
    assert suffixes["JPEG"] == ".jpg"
    assert suffixes["GIF"] == ".gif"


def test_clevr_counts_objects_and_bins_the_nearest(archives):
    counts = found(archives, "clevr", "clevr_count")[0]
    assert [e.label for e in counts["train"][:9]] == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    distances = found(archives, "clevr", "clevr_dist")[0]  # 7.75, 8.25, 8.75, 9.25, 9.75, 10.25
    assert [e.label for e in distances["validation"][:7]] == [0, 1, 2, 3, 4, 5, 0]
    assert distances["train"][0].key == "CLEVR_train_000000.png"


@pytest.mark.parametrize(
    ("distance", "label"), [(8.0, 0), (8.000001, 1), (8.5, 1), (9.0, 2), (9.5, 3), (10.0, 4), (10.1, 5), (0.5, 0)]
)
def test_a_distance_on_a_threshold_belongs_to_the_nearer_bin(tmp_path, distance, label):
    scene = {"image_filename": "CLEVR_train_000000.png", "objects": [{"pixel_coords": [0, 0, distance]}] * 3}
    scenes = {
        f"CLEVR_v1.0/scenes/CLEVR_{s}_scenes.json": json.dumps({"scenes": [scene]}).encode() for s in ("train", "val")
    }
    (tmp_path / "clevr").mkdir()
    zipped(tmp_path / "clevr/CLEVR_v1.0.zip", scenes)
    assert found(tmp_path, "clevr", "clevr_dist")[0]["train"][0].label == label


def test_kitti_bins_the_nearest_vehicle_and_splits_by_video(archives):
    splits, _ = found(archives, "kitti", "kitti")
    for entries in splits.values():
        assert all(e.label == int(e.key[:6]) % 4 for e in entries)  # 4.5 m, 12.25 m, 60 m, none
    with zipfile.ZipFile(archives / "kitti/devkit_object.zip") as archive:
        order = [int(n) for n in archive.read("mapping/train_rand.txt").decode().split(",")]
    videos = {split: {(order[int(e.key[:6])] - 1) % 15 for e in entries} for split, entries in splits.items()}
    assert [len(videos[s]) for s in ("train", "validation", "test")] == [13, 1, 1]
    # Drawn as numpy's legacy generator of seed 123 draws from 15, and then from 14: fixed numbers.
    random = np.random.RandomState(123)
    (test,) = random.choice(range(15), 1, replace=False)
    assert videos["test"] == {test}
    (val,) = random.choice([v for v in range(15) if v != test], 1, replace=False)
    assert videos["validation"] == {val}


def test_dsprites_puts_positions_and_orientations_into_sixteen_bins(archives, prepared):
    places, reader = found(archives, "dsprites", "dsprites_loc")
    turns, _ = found(archives, "dsprites", "dsprites_ori")
    assert [e.label for e in places["train"][:33]] == [i // 2 for i in range(32)] + [0]
    assert [e.label for e in turns["train"][:8]] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert max(e.label for e in turns["train"]) == 15
    with np.load(archives / "dsprites" / SOURCES["dsprites"].files[0].name) as file:
        theirs = file["imgs"]
    chosen = [places["train"][i] for i in (300, 2, 319)]
    for at, content in reader.pictures(chosen):
        assert (np.asarray(Image.open(io.BytesIO(content))) == theirs[chosen[at].place] * 255).all()


def test_smallnorb_halves_the_azimuth_and_takes_the_left_picture(archives):
    azimuths, reader = found(archives, "smallnorb", "smallnorb_azi")
    elevations, _ = found(archives, "smallnorb", "smallnorb_ele")
    assert [e.label for e in azimuths["test"][:19]] == [*range(18), 0]
    assert [e.label for e in elevations["train"][:10]] == [*range(9), 0]
    import gzip

    raw = gzip.decompress((archives / "smallnorb" / SOURCES["smallnorb"].files[0].name).read_bytes())
    ((_, content),) = reader.pictures(azimuths["train"][5:6])
    begin = 24 + 5 * 2 * 96 * 96
    assert np.asarray(Image.open(io.BytesIO(content))).tobytes() == raw[begin : begin + 96 * 96]


def test_patch_camelyon_keeps_pixels_and_order(archives):
    import h5py

    splits, reader = found(archives, "patch_camelyon", "patch_camelyon")
    assert [e.key for e in splits["validation"][:2]] == ["valid_0", "valid_1"]
    with h5py.File(archives / "patch_camelyon/camelyonpatch_level_2_split_test_x.h5") as file:
        for at, content in reader.pictures(splits["test"][3:5]):
            assert (np.asarray(Image.open(io.BytesIO(content))) == file["x"][3 + at]).all()


def test_dmlab_reads_every_shard(archives):
    splits, reader = found(archives, "dmlab", "dmlab")
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [20, 8, 14]
    assert all(e.label == int(e.key.split("_")[1].split(".")[0]) % 6 for e in splits["train"])
    assert {at for at, _ in reader.pictures(splits["test"])} == set(range(14))


def test_retinopathy_validates_on_the_public_half(archives):
    splits, _ = found(archives, "diabetic_retinopathy", "diabetic_retinopathy")
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [18, 7, 13]
    assert splits["train"][0] == Entry("1_left", 0, "train/1_left.jpeg")


def test_an_eye_is_scaled_to_its_radius_and_masked():
    y, x = np.ogrid[:300, :400]
    inside = (y - 150) ** 2 + (x - 200) ** 2 < 120**2
    eye = np.where(inside[..., None], 90, 0).astype(np.uint8).repeat(3, axis=2)
    made = btgraham(eye, 300)
    assert made.shape == (540, 540, 3)
    assert (made[0, 0] == 128).all()  # the ground
    assert (made[270, 270] == 128).all()  # even, so equal to its local average
    assert made[270, 540 - 1].min() > 0


# -- TFRecord


def test_the_checksum_is_crc_32c():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # both from RFC 3720 and the catalogue of CRCs


@given(st.binary(max_size=3000))
def test_checksums_of_any_length_are_those_taken_bit_by_bit(content):
    record = standins.tf_record(content)
    assert list(read_records(io.BytesIO(record), "x")) == [content]
    assert struct.unpack("<I", record[-4:])[0] == masked_checksum(crc32c(content))


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8), st.one_of(st.binary(max_size=200), st.integers(0, 2**63 - 1)), max_size=4
    )
)
def test_examples_are_read_as_they_were_written(features):
    assert parse_example(standins.tf_example(**features), "x") == {name: [value] for name, value in features.items()}


@given(st.binary(max_size=60))
def test_bytes_that_are_no_example_are_read_as_one_or_refused(content):
    with contextlib.suppress(UserError):
        assert isinstance(parse_example(content, "x"), dict)


@pytest.mark.parametrize("at", [0, 9, 14, -1])
def test_a_changed_byte_of_a_record_is_found(at):
    record = bytearray(standins.tf_record(b"some data that is long enough"))
    record[at] ^= 1
    with pytest.raises(UserError, match=r"record 1 (has a wrong checksum|is cut off)"):
        list(read_records(io.BytesIO(bytes(record)), "x"))


def test_a_record_that_is_cut_off_is_named():
    whole = standins.tf_record(b"abc") + standins.tf_record(b"def")
    with pytest.raises(UserError, match="x: record 2 is cut off"):
        list(read_records(io.BytesIO(whole[:-2]), "x"))


# -- the order


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


# -- sources that are not as they should be


def test_a_source_that_lacks_images_is_refused_unless_a_smaller_set_is_asked_for(archives, data, tmp_path):
    told = data("prepare", "vtab/cifar", f"archives={archives}")
    one_line(told, "54 images for train, expected 45,000", "train=, val= and test=")
    told = data("prepare", "vtab/cifar", f"archives={archives}", "train=800", "val=2", "test=2")
    one_line(told, "54 images to draw train from, and 800")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [["train=5"], ["train=5", "val=x", "test=1"], ["train=0", "val=1", "test=1"]])
def test_sizes_come_all_three(data, words):
    one_line(data("prepare", "vtab/cifar", *words), words[0], "train=N val=N test=N")


def test_what_only_a_person_can_fetch_is_told_with_the_steps(data, tmp_path):
    told = data("prepare", "vtab/resisc45")
    one_line(
        told,
        "NWPU-RESISC45",
        "by hand",
        str(tmp_path / "data/sources/resisc45/NWPU-RESISC45"),
        SOURCES["resisc45"].home,
    )


def test_of_many_tasks_those_that_fail_are_named_and_the_others_made(archives, data, tmp_path):
    for name in ("svhn", "eurosat"):
        shutil.copytree(archives / name, tmp_path / "some" / name)
    (tmp_path / "some/resisc45").mkdir()
    status, told, _ = data("prepare", "vtab/svhn", "vtab/resisc45", "vtab/eurosat", f"archives={tmp_path}/some", *WORDS)
    assert status == 1
    assert [line.split()[0] for line in told.splitlines()] == ["made", "failed", "made", "1"]
    assert "resisc45" in told.splitlines()[-1]


def test_a_task_that_is_there_is_left_alone(prepared, archives, data):
    mark = prepared[0] / "cifar/mine.txt"
    mark.write_text("kept")
    status, told, _ = data("prepare", "vtab/cifar", f"dir={prepared[0]}", f"archives={archives}", *WORDS)
    mark.unlink()
    assert status == 0
    assert told.startswith("there  cifar")


def test_something_else_in_the_task_s_place_is_kept(archives, data, tmp_path):
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn/mine.txt").write_text("kept")
    told = data("prepare", "vtab/svhn", f"dir={tmp_path}", f"archives={archives}", *WORDS)
    one_line(told, str(tmp_path / "svhn"), "no task's folder")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["prepare", "vtab/cifra"], ["vtab/cifra", "did you mean 'cifar'"]),
        (["prepare"], ["expected vtab or vtab/<task>"]),
        (["prepare", "vtab/cifar", "sorce=folder"], ["sorce", "did you mean 'source'"]),
        (["prepare", "vtab/cifar", "source=foldr"], ["source=foldr", "did you mean 'folder'"]),
        (["prepare", "vtab/cifar", "source=folder"], ["path="]),
        (["prepare", "vtab/cifar", "path=x"], ["path=x", "source=original"]),
        (["check", "vtab/dsprite_loc"], ["did you mean 'dsprites_loc'"]),
        (["check", "./nowhere"], ["./nowhere", "no such folder"]),
        (["check", "stage=tone"], ["stage=tone", "did you mean 'tune'"]),
        (["chek"], ["did you mean 'check'"]),
        ([], ["prepare, check, sources"]),
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(data, words, parts):
    one_line(data(*words), *parts)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("cifar100", "cifar-100-binary.tar.gz"),
        ("caltech101", "caltech-101.zip"),
        ("dtd", "dtd-r1.0.1.tar.gz"),
        ("flowers102", "setid.mat"),
        ("flowers102", "102flowers.tgz"),
        ("oxford_iiit_pet", "annotations.tar.gz"),
        ("svhn", "train_32x32.mat"),
        ("sun397", "SUN397.tar.gz"),
        ("patch_camelyon", "camelyonpatch_level_2_split_train_x.h5.gz"),
        ("eurosat", "EuroSAT_RGB.zip"),
        ("clevr", "CLEVR_v1.0.zip"),
        ("dmlab", "dmlab.tar.gz"),
        ("kitti", "data_object_label_2.zip"),
        ("dsprites", "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"),
        ("smallnorb", "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat.gz"),
    ],
)
def test_a_file_that_is_cut_off_is_named_and_nothing_is_made(archives, data, tmp_path, source, file):
    shutil.copytree(archives / source, tmp_path / "cut" / source)
    for unpacked in (tmp_path / "cut" / source).glob("*.h5"):
        unpacked.unlink()
    truncated(tmp_path / "cut" / source / file)
    told = data("prepare", f"vtab/{SOURCES[source].tasks[0]}", f"archives={tmp_path}/cut", *WORDS)
    one_line(told, file)
    root = tmp_path / "data/vtab"
    assert not [p for p in root.glob("*") if not p.name.startswith(".")]


@pytest.mark.parametrize("kind", ["empty", "text"])
@pytest.mark.parametrize("source", [n for n in SOURCES if n not in ("resisc45", "sun397")])
def test_files_of_another_kind_are_refused(archives, data, tmp_path, source, kind):
    file = next(f.name for f in SOURCES[source].files if not f.name.endswith(".csv"))
    shutil.copytree(archives / source, tmp_path / "other" / source)
    for path in (tmp_path / "other" / source).glob("*"):
        if path.suffix == ".h5" or path.is_dir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
    (tmp_path / "other" / source / file).write_text("no archive" if kind == "text" else "")
    told = data("prepare", f"vtab/{SOURCES[source].tasks[0]}", f"archives={tmp_path}/other", *WORDS)
    one_line(told, file)


def test_a_pickle_is_never_loaded(data, tmp_path):
    """An .npz whose images are objects would run code when they are unpickled."""
    folder = tmp_path / "bad" / "dsprites"
    folder.mkdir(parents=True)
    ours = np.array([{"a": 1}] * 40, dtype=object)
    name = SOURCES["dsprites"].files[0].name
    np.savez(folder / name, imgs=ours, latents_classes=ours)
    one_line(data("prepare", "vtab/dsprites_loc", f"archives={tmp_path}/bad", *WORDS), name, "objects")


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:/evil.jpg"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_with_a_path_that_leads_out_is_refused(data, tmp_path, name, kind):
    folder = tmp_path / "evil" / "eurosat"
    folder.mkdir(parents=True)
    path = folder / "EuroSAT_RGB.zip"
    files = {"EuroSAT_RGB/Forest/Forest_1.jpg": picture(), name: picture()}
    zipped(path, files) if kind == "zip" else tar(path, files, "w" if kind == "tar" else "w:gz")
    told = data("prepare", "vtab/eurosat", f"archives={tmp_path}/evil", *WORDS)
    one_line(told, "EuroSAT_RGB.zip", name, "leads out of its folder")
    assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize(("link", "target"), [("sym", "../../etc/passwd"), ("sym", "/etc/passwd"), ("hard", "../x")])
def test_a_link_that_leads_out_is_refused(tmp_path, link, target):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("folder/link.jpg")
        member.type, member.linkname = (tarfile.SYMTYPE if link == "sym" else tarfile.LNKTYPE), target
        archive.addfile(member)
    with pytest.raises(UserError, match="leads out of its folder"):
        open_tree(path).names()


def test_a_rar_is_told_to_be_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"Rar!\x1a\x07\x00 and so on")
    with pytest.raises(UserError, match="rar archive; unpack it"):
        open_tree(tmp_path / "a.zip")


def test_an_unpacked_folder_stands_for_its_archive(archives, prepared, data, tmp_path):
    folder = tmp_path / "unpacked/dtd"
    folder.mkdir(parents=True)
    with tarfile.open(archives / "dtd/dtd-r1.0.1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    assert data("prepare", "vtab/dtd", f"archives={tmp_path}/unpacked", f"dir={tmp_path}", *WORDS)[0] == 0
    assert (tmp_path / "dtd/split.json").read_bytes() == (prepared[0] / "dtd/split.json").read_bytes()


def test_what_torchvision_left_on_disk_is_read_and_gives_the_same_labels(archives, tmp_path):
    from torchvision.datasets import DTD, OxfordIIITPet

    theirs = tmp_path / "torchvision"
    for archive, place in (
        ("dtd/dtd-r1.0.1.tar.gz", "dtd"),
        ("oxford_iiit_pet/images.tar.gz", "oxford-iiit-pet"),
        ("oxford_iiit_pet/annotations.tar.gz", "oxford-iiit-pet"),
        ("flowers102/102flowers.tgz", "flowers-102"),
    ):
        with tarfile.open(archives / archive) as file:
            file.extractall(theirs / place, filter="data")
    for name in ("imagelabels.mat", "setid.mat"):
        shutil.copy(archives / "flowers102" / name, theirs / "flowers-102")
    assert len(found(theirs, "flowers102", "oxford_flowers102")[0]["test"]) == 24
    textures, _ = found(theirs, "dtd", "dtd")
    pets, _ = found(theirs, "oxford_iiit_pet", "oxford_iiit_pet")
    for ours, other in (
        (textures["validation"], DTD(theirs, split="val")),
        (pets["train"], OxfordIIITPet(theirs, split="trainval")),
    ):
        files = getattr(other, "_image_files", None) or other._images
        assert [(e.key.rpartition("/")[2], e.label) for e in ours] == [
            (Path(path).name, label) for path, label in zip(files, other._labels, strict=True)
        ]


# -- interruption and a full disk


def test_a_full_disk_is_told_and_the_same_command_goes_on_from_there(archives, prepared, data, tmp_path):
    words = ("prepare", "vtab/eurosat", f"archives={archives}", f"dir={tmp_path}", *WORDS)
    sizes = sorted(p.stat().st_size for p in (prepared[0] / "eurosat/images").rglob("*.jpg"))
    with disk_full_beyond(sizes[-1] - 1):
        one_line(data(*words), str(tmp_path / "eurosat"), "could not be written", "goes on from there")
    assert not (tmp_path / "eurosat").exists()
    begun = {p: p.stat().st_mtime_ns for p in (tmp_path / ".eurosat.preparing/images/train800").glob("*.jpg")}
    assert begun
    assert data(*words)[0] == 0
    for path, written in begun.items():
        kept = tmp_path / "eurosat" / path.relative_to(tmp_path / ".eurosat.preparing")
        assert kept.stat().st_mtime_ns == written
    assert (tmp_path / "eurosat/split.json").read_bytes() == (prepared[0] / "eurosat/split.json").read_bytes()
    assert [p.name for p in tmp_path.glob("*euro*")] + [p.name for p in tmp_path.glob(".*")] == ["eurosat"]


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_where_it_was(archives, prepared, tmp_path):
    import signal
    import subprocess
    import sys
    import time

    words = ["data", "prepare", "vtab/diabetic_retinopathy", f"archives={archives}", f"dir={tmp_path}", *WORDS]
    command = [sys.executable, "-c", f"import sys; from peftbench.cli.main import main; sys.exit(main({words!r}))"]
    begun, made = tmp_path / ".diabetic_retinopathy.preparing", tmp_path / "diabetic_retinopathy"
    with subprocess.Popen(command) as running:
        deadline = time.monotonic() + 60
        while not list(begun.glob("images/train800/*.png")) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert not made.exists()
    before = {p.relative_to(begun): p.stat().st_mtime_ns for p in begun.glob("images/*/*.png")}
    assert before
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert {name: (made / name).stat().st_mtime_ns for name in before} == before
    assert (made / "split.json").read_bytes() == (prepared[0] / made.name / "split.json").read_bytes()


def test_what_was_begun_for_another_split_is_begun_anew(archives, prepared, data, tmp_path):
    begun = tmp_path / ".svhn.preparing"
    (begun / "images/train800").mkdir(parents=True)
    (begun / "images/train800/000000.png").write_bytes(b"of another split")
    (begun / ".plan").write_text("another")
    assert data("prepare", "vtab/svhn", f"archives={archives}", f"dir={tmp_path}", *WORDS)[0] == 0
    assert (tmp_path / "svhn/split.json").read_bytes() == (prepared[0] / "svhn/split.json").read_bytes()


def test_two_at_a_time_do_not_write_one_folder(archives, data, tmp_path):
    import fcntl

    with (tmp_path / ".svhn.preparing.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        told = data("prepare", "vtab/svhn", f"archives={archives}", f"dir={tmp_path}", *WORDS)
    one_line(told, "svhn", "another process")


# -- adopting a copy that others made


def noah(root: Path, name: str, sizes: tuple[int, int, int] = SIZES, task: str = "eurosat") -> Path:
    """A task in NOAH's layout: jpg files numbered from 0 in each split."""
    folder = root / name
    contents: dict[str, list[tuple[bytes, int]]] = {}
    classes = TASKS[task].classes
    for split, size in zip(("train800", "val200", "test"), sizes, strict=True):
        contents[split] = [(picture(), i % classes) for i in range(size)]
    contents["train800val200"] = contents["train800"] + contents["val200"]
    for split, images in contents.items():
        (folder / "images" / split).mkdir(parents=True)
        for i, (content, _) in enumerate(images):
            (folder / f"images/{split}/{i:06d}.jpg").write_bytes(content)
        lines = "".join(f"images/{split}/{i:06d}.jpg {label}\n" for i, (_, label) in enumerate(images))
        (folder / f"{split}.txt").write_text(lines)
    return folder


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


def no_label(folder: Path) -> None:
    path = folder / "train800.txt"
    path.write_text(re.sub(r"000003.jpg \d+", "000003.jpg", path.read_text()))


def one_line_less(folder: Path) -> None:
    path = folder / "train800val200.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def beyond(folder: Path) -> None:
    path = folder / "test.txt"
    path.write_text(re.sub(r"000003.jpg \d+", "000003.jpg 10", path.read_text()))


DAMAGE = {
    "a line without a label": (no_label, ["train800.txt:4", "<path> <label>"]),
    "a line less": (one_line_less, ["train800val200.txt", "19 images, expected 20"]),
    "a label beyond the classes": (beyond, ["test.txt:4", "label 10", "0 to 9"]),
    "a missing image": (lambda f: (f / "images/test/000002.jpg").unlink(), ["images/test/000002.jpg is missing"]),
    "an empty image": (lambda f: (f / "images/test/000002.jpg").write_bytes(b""), ["images/test/000002.jpg is empty"]),
    "a truncated image": (lambda f: truncated(f / "images/test/000002.jpg"), ["test/000002.jpg is no whole image"]),
    "a text": (lambda f: (f / "images/test/000002.jpg").write_text("x"), ["test/000002.jpg is no whole image"]),
    "a missing list": (lambda f: (f / "val200.txt").unlink(), ["val200.txt", "is missing"]),
    "an image of train in test": (
        lambda f: shutil.copy(f / "images/train800/000001.jpg", f / "images/test/000002.jpg"),
        ["1 picture of train is in test too", "images/train800/000001.jpg = images/test/000002.jpg"],
    ),
    "an image of val in train": (
        lambda f: shutil.copy(f / "images/val200/000001.jpg", f / "images/train800/000002.jpg"),
        ["1 picture of train is in val too"],
    ),
    "another union": (
        lambda f: shutil.copy(f / "images/test/000001.jpg", f / "images/train800val200/000002.jpg"),
        ["train800val200.txt is not train800.txt and val200.txt together"],
    ),
    "an image listed twice": (
        lambda f: (f / "test.txt").write_text((f / "test.txt").read_text().replace("000001", "000002")),
        ["1 image listed more than once"],
    ),
    "a list that is no text": (lambda f: (f / "test.txt").write_bytes(b"\xff\xfe\x80"), ["test.txt", "no text"]),
}


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


def test_999_lines_are_counted(data, tmp_path):
    folder = noah(tmp_path, "kitti", (800, 200, 711), task="kitti")
    assert data("check", str(folder))[0] == 0
    one_line_less(folder)
    status, told, _ = data("check", str(folder))
    assert status == 1
    assert "train800val200.txt: 999 images, expected 1,000" in told


def test_a_few_twins_are_no_fault_where_the_source_has_them(data, tmp_path):
    folder = noah(tmp_path, "oxford_iiit_pet", (800, 200, 3_669), task="oxford_iiit_pet")
    for i in range(20):
        shutil.copy(folder / f"images/train800/{i:06d}.jpg", folder / f"images/test/{i:06d}.jpg")
    status, told, _ = data("check", str(folder))
    assert status == 0, told
    assert "note: 20 pictures of train are in test too" in told
    shutil.copy(folder / "images/train800/000020.jpg", folder / "images/test/000020.jpg")
    assert data("check", str(folder))[0] == 1


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


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is missing")
def test_the_caltech_sample_is_checked(data):
    status, told, _ = data("check", str(SHARED))
    assert status == 1
    assert told.startswith("wrong  caltech101: train 800 (102 classes), val 200 (94 classes)")
    assert "test.txt: 1,020 images, expected 6,084 or 6,085" in told
    assert "val200.txt: 8 of the 102 classes have no image" in told
    assert "is missing" not in told


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is missing")
def test_the_caltech_sample_is_adopted_with_its_own_sizes(data, tmp_path):
    from peftbench.data.base import split_hash
    from peftbench.data.vtab.dataset import Vtab

    words = ("source=folder", f"path={SHARED}", "train=800", "val=200", "test=1020")
    status, told, error = data("prepare", "vtab/caltech101", *words)
    assert status == 0, error
    theirs = Vtab("caltech101", 102, str(SHARED)).load()
    assert f"hash {split_hash(*theirs.roles('final'))}" in told
    ours = Vtab("caltech101", 102, str(tmp_path / "data/vtab")).load()
    assert ours.classes == theirs.classes
    assert split_hash(*ours.roles("tune")) == split_hash(*theirs.roles("tune"))


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


# -- fetching


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; `cut` ends the first answers early, `ranges=False` knows no parts."""

    files: dict[str, bytes]
    cut: list[int]
    ranges = True
    tag = '"one"'
    asked: list[str | None]

    def do_GET(self) -> None:
        content = self.files.get(self.path)
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        if content is None:
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if wanted and self.headers.get("If-Range") != self.tag:
            begin = 0
        if begin and begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "text/html" if self.path.endswith("page") else "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("ETag", self.tag)
        self.end_headers()
        self.wfile.write(content[begin : self.cut.pop(0)] if self.cut else content[begin:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    kind = type("Here", (Server,), {"files": {}, "cut": [], "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as here:
        thread = threading.Thread(target=functools.partial(here.serve_forever, poll_interval=0.02))
        thread.start()
        yield f"http://127.0.0.1:{here.server_address[1]}", kind
        here.shutdown()
        thread.join()


CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


def test_a_file_is_fetched_whole(server, tmp_path):
    url, here = server
    here.files["/a.bin"] = CONTENT
    told: list[tuple] = []
    fetch_file(f"{url}/a.bin", tmp_path / "deep/a.bin", lambda *seen: told.append(seen))
    assert (tmp_path / "deep/a.bin").read_bytes() == CONTENT
    assert told[-1] == ("fetching a.bin (MB)", 2, 3)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.bin"]


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut = CONTENT, [1_000_000, 2_000_000]
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", wait=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert here.asked == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_later_command_goes_on_with_the_part_that_is_kept(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut = CONTENT, [1_000_000]
    with pytest.raises(UserError, match=r"could not be fetched .*1\.0 MB are kept.*by hand"):
        fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    assert not (tmp_path / "a.bin").exists()
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert here.asked == [None, "bytes=1000000-"]


def test_the_part_of_a_file_that_has_changed_is_not_continued(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut = CONTENT, [1_000_000]
    with pytest.raises(UserError):
        fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    here.files["/a.bin"], here.tag = CONTENT[::-1], '"two"'
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", tries=1)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_a_server_without_parts_sends_all_again(server, tmp_path):
    url, here = server
    here.files["/a.bin"], here.cut, here.ranges = CONTENT, [1_000_000], False
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin", wait=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_the_whole_file_is_taken(server, tmp_path):
    url, here = server
    here.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": f"{url}/a.bin", "mark": here.tag}))
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(("path", "reason"), [("/none.bin", "404"), ("/page", "a web page")])
def test_what_is_no_file_is_told_at_once(server, tmp_path, path, reason):
    url, here = server
    here.files["/page"] = b"<html>please log in</html>"
    with pytest.raises(UserError, match=f"could not be fetched .*{reason}.*; or do this"):
        fetch_file(url + path, tmp_path / "a.bin", by_hand="do this")
    assert len(here.asked) == 1
    assert not list(tmp_path.iterdir())


def test_an_address_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="http"):
        fetch_file("file:///etc/passwd", tmp_path / "a.bin")


def test_a_full_disk_keeps_what_was_fetched(server, tmp_path):
    url, here = server
    here.files["/a.bin"] = CONTENT
    with disk_full_beyond(2**20), pytest.raises(UserError, match="could not be written"):
        fetch_file(f"{url}/a.bin", tmp_path / "a.bin", wait=0)
    assert not (tmp_path / "a.bin").exists()
    fetch_file(f"{url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert here.asked[1] == f"bytes={2**20}-"


def test_a_task_is_fetched_from_a_mirror_and_prepared(server, archives, prepared, data, tmp_path):
    url, here = server
    for file in SOURCES["smallnorb"].files:
        here.files[f"/pub/smallnorb/{file.name}"] = (archives / "smallnorb" / file.name).read_bytes()
    told = data("prepare", "vtab/smallnorb_azi", "vtab/smallnorb_ele", f"mirror={url}/pub/", *WORDS)
    assert told[0] == 0, told
    assert len(here.asked) == 4  # once, for both tasks
    for name in ("smallnorb_azi", "smallnorb_ele"):
        made = tmp_path / "data/vtab" / name / "split.json"
        assert made.read_bytes() == (prepared[0] / name / "split.json").read_bytes()
    assert (tmp_path / "data/sources/smallnorb").is_dir()
