"""The readers: labels and pixels of each source's format."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers.retinopathy import btgraham
from peftbench.data.prepare.sources import SOURCES
from support.standins import zipped
from support.vtab import everything, found


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
