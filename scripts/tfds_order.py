"""What TFDS itself makes of the stand-ins of VTAB-1k's sources: the figures in tests/data/prepare/test_order.py.

python scripts/tfds_order.py

For each task and split of TFDS, a hash over the keys and labels in the order in which TFDS's own builder and shuffler
store them, with the labels of task_adaptation's own functions where it changes them. It needs an environment with
tensorflow-cpu, tensorflow-datasets, task-adaptation, h5py, opencv-python-headless, scipy, and peftbench on its path.
Caltech-101 is left out: TFDS draws it in the order of the file system.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from task_adaptation.data import clevr as clevr_labels
from task_adaptation.data import kitti as kitti_labels
from tensorflow_datasets.core import shuffle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import standins

Rows = dict[str, list[tuple[str, int]]]
Label = Callable[[Any], int]


def stored(work: Path, split: str, examples: Iterable[tuple[Any, Any]], label: Label) -> list[tuple[str, int]]:
    """(key, label) in the order in which TFDS stores the examples of a split."""
    shuffler = shuffle.Shuffler(str(work / "shuffled"), hash_salt=split)
    for key, example in examples:
        text = key.decode() if isinstance(key, bytes) else str(key)
        shuffler.add(key, json.dumps([text, int(label(example))]).encode())
    return [tuple(json.loads(row)) for _, row in shuffler]


def unpacked(archive: Path, folder: Path) -> Path:
    if zipfile.is_zipfile(archive):
        zipfile.ZipFile(archive).extractall(folder)
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return folder


def members(archive: Path) -> Iterator[tuple[str, Any]]:
    file = zipfile.ZipFile(archive)
    for name in file.namelist():
        yield name, file.open(name)


def ungzipped(path: Path, to: Path) -> str:
    to.write_bytes(gzip.decompress(path.read_bytes()))
    return str(to)


def own(example: Any) -> int:
    return example["label"]


def module(name: str) -> Any:
    return importlib.import_module(f"tensorflow_datasets.datasets.{name}.{name}_dataset_builder")


class Sources:
    """One method a source: task -> split -> rows."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work

    def rows(self, splits: dict[str, tuple], builder: Any, label: Label = own) -> Rows:
        return {s: stored(self.work, s, builder._generate_examples(*given), label) for s, given in splits.items()}

    def builder(self, name: str, **config: str) -> Any:
        return tfds.builder(name, data_dir=str(self.work / "tfds"), **config)

    def cifar100(self) -> dict[str, Rows]:
        folder = unpacked(self.root / "cifar100/cifar-100-binary.tar.gz", self.work / "cifar") / "cifar-100-binary"
        splits = {s: (f"{s}_", [str(folder / f"{s}.bin")]) for s in ("train", "test")}
        return {"cifar": self.rows(splits, self.builder("cifar100"))}

    def dtd(self) -> dict[str, Rows]:
        folder = unpacked(self.root / "dtd/dtd-r1.0.1.tar.gz", self.work / "dtd")
        names = sorted(p.name for p in (folder / "dtd/images").iterdir())
        splits = {s: (str(folder), f) for s, f in (("train", "train1"), ("validation", "val1"), ("test", "test1"))}
        return {"dtd": self.rows(splits, self.builder("dtd"), lambda e: names.index(e["label"]))}

    def flowers102(self) -> dict[str, Rows]:
        here = self.root / "flowers102"
        folder = unpacked(here / "102flowers.tgz", self.work / "flowers") / "jpg"
        files = str(folder), str(here / "imagelabels.mat"), str(here / "setid.mat")
        splits = {s: (*files, f) for s, f in (("train", "trnid"), ("validation", "valid"), ("test", "tstid"))}
        return {"oxford_flowers102": self.rows(splits, self.builder("oxford_flowers102"))}

    def oxford_iiit_pet(self) -> dict[str, Rows]:
        for file in ("images", "annotations"):
            folder = unpacked(self.root / f"oxford_iiit_pet/{file}.tar.gz", self.work / "pets")
        images, lists = str(folder / "images"), folder / "annotations"
        splits = {s: (images, str(lists), str(lists / f)) for s, f in (("train", "trainval.txt"), ("test", "test.txt"))}
        return {"oxford_iiit_pet": self.rows(splits, self.builder("oxford_iiit_pet"))}

    def svhn(self) -> dict[str, Rows]:
        splits = {s: (f"{s}_", str(self.root / f"svhn/{s}_32x32.mat")) for s in ("train", "test")}
        return {"svhn": self.rows(splits, self.builder("svhn_cropped"))}

    def sun397(self) -> dict[str, Rows]:
        theirs = module("sun397")
        theirs._process_image_file = lambda *given, **more: None  # pixels do not matter here
        parts = {"train": "tr", "validation": "va", "test": "te"}
        lists = {s: (self.root / f"sun397/sun397_tfds_{p}.txt").read_text().split() for s, p in parts.items()}
        names = sorted({line.rpartition("/")[0] for listed in lists.values() for line in listed})

        def files() -> Iterator[tuple[str, Any]]:
            with tarfile.open(self.root / "sun397/SUN397.tar.gz") as archive:
                for member in archive:
                    yield member.name, archive.extractfile(member)

        splits = {s: (files(), set(listed)) for s, listed in lists.items()}
        builder = theirs.Builder(data_dir=str(self.work / "tfds"), config="tfds")
        return {"sun397": self.rows(splits, builder, lambda e: names.index(e["label"]))}

    def patch_camelyon(self) -> dict[str, Rows]:
        paths = {}
        for part in (f"{s}_{p}" for s in ("train", "valid", "test") for p in "xy"):
            packed = self.root / f"patch_camelyon/camelyonpatch_level_2_split_{part}.h5.gz"
            paths[part] = ungzipped(packed, self.work / f"{part}.h5")
        splits = {s: (f, paths) for s, f in (("train", "train"), ("validation", "valid"), ("test", "test"))}
        return {"patch_camelyon": self.rows(splits, self.builder("patch_camelyon"))}

    def eurosat(self) -> dict[str, Rows]:
        folder = unpacked(self.root / "eurosat/EuroSAT_RGB.zip", self.work / "eurosat") / "EuroSAT_RGB"
        builder = self.builder("eurosat", config="rgb")
        number = builder.info.features["label"].str2int
        return {"eurosat": self.rows({"train": (str(folder), "rgb")}, builder, lambda e: number(e["label"]))}

    def resisc45(self) -> dict[str, Rows]:
        builder = self.builder("resisc45")
        number = builder.info.features["label"].str2int
        splits = {"train": (str(self.root / "resisc45/NWPU-RESISC45"),)}
        return {"resisc45": self.rows(splits, builder, lambda e: number(e["label"]))}

    def diabetic_retinopathy(self) -> dict[str, Rows]:
        here = self.root / "diabetic_retinopathy"
        builder = self.builder("diabetic_retinopathy_detection", config="btgraham-300")
        builder._process_image = lambda path: None
        test = str(here / "test"), str(here / "retinopathy_solution.csv")
        splits = {
            "train": (str(here / "train"), str(here / "trainLabels.csv"), None),
            "validation": (*test, "Public"),
            "test": (*test, "Private"),
        }
        return {"diabetic_retinopathy": self.rows(splits, builder)}

    def clevr(self) -> dict[str, Rows]:
        folder = unpacked(self.root / "clevr/CLEVR_v1.0.zip", self.work / "clevr") / "CLEVR_v1.0"
        questions = self.work / "questions.json"
        questions.write_text('{"questions": []}')
        splits = {}
        for split, name in (("train", "train"), ("validation", "val")):
            path = folder / f"scenes/CLEVR_{name}_scenes.json"
            scenes = json.loads(path.read_text())
            for thing in (thing for scene in scenes["scenes"] for thing in scene["objects"]):
                thing |= {"color": "red", "material": "metal", "size": "small", "rotation": 0.0, "3d_coords": [0, 0, 0]}
            path.write_text(json.dumps(scenes))
            splits[split] = (str(folder / "images" / name), str(questions), str(path))

        def label(function: Callable) -> Label:
            def of(example: Any) -> int:
                things = example["objects"]
                places = tf.constant([thing["pixel_coords"] for thing in things], tf.float32)
                objects = {"size": tf.zeros(len(things)), "pixel_coords": places}
                return function({"image": None, "objects": objects})["label"].numpy()

            return of

        functions = {
            "clevr_count": clevr_labels._count_preprocess_fn,
            "clevr_dist": clevr_labels._closest_object_preprocess_fn,
        }
        return {task: self.rows(splits, self.builder("clevr"), label(f)) for task, f in functions.items()}

    def dmlab(self) -> dict[str, Rows]:
        folder = unpacked(self.root / "dmlab/dmlab.tar.gz", self.work / "dmlab")
        splits = {s: (str(folder), s) for s in ("train", "validation", "test")}
        return {"dmlab": self.rows(splits, self.builder("dmlab"))}

    def kitti(self) -> dict[str, Rows]:
        theirs, here = module("kitti"), self.root / "kitti"

        def label(example: Any) -> int:
            things = example["objects"]
            kinds = [theirs._OBJECT_LABELS.index(thing["type"]) for thing in things]
            places = tf.constant([thing["location"] for thing in things], tf.float32)
            objects = {"type": tf.constant(kinds, tf.int64), "location": places}
            return kitti_labels._closest_vehicle_distance_pp({"image": None, "objects": objects})["label"].numpy()

        splits = {}
        parts = theirs._build_splits(members(here / "devkit_object.zip"))
        for split, chosen in zip(("train", "validation", "test"), parts, strict=True):
            archives = (members(here / f"data_object_{f}_2.zip") for f in ("image", "label"))
            splits[split] = (*archives, "training", chosen)
        return {"kitti": self.rows(splits, theirs.Builder(data_dir=str(self.work / "tfds")), label)}

    def dsprites(self) -> dict[str, Rows]:
        import h5py

        (archive,) = (self.root / "dsprites").glob("*.npz")
        path = self.work / "dsprites.h5"
        with np.load(archive) as arrays, h5py.File(path, "w") as file:  # TFDS reads the other file of the same
            file["imgs"], latents = arrays["imgs"], file.create_group("latents")
            latents["classes"], latents["values"] = arrays["latents_classes"], arrays["latents_values"]
        found = {}
        for task, key, values in (("dsprites_loc", "label_x_position", 32), ("dsprites_ori", "label_orientation", 40)):

            def label(example: Any, key: str = key, values: int = values) -> int:
                return tf.math.floordiv(tf.cast(example[key], tf.float32), values / 16).numpy()

            found[task] = self.rows({"train": (str(path),)}, self.builder("dsprites"), label)
        return found

    def smallnorb(self) -> dict[str, Rows]:
        splits = {}
        for split, name in (("train", "5x46789x9x18x6x2x96x96-training"), ("test", "5x01235x9x18x6x2x96x96-testing")):
            files = [
                ungzipped(self.root / f"smallnorb/smallnorb-{name}-{part}.mat.gz", self.work / f"{split}-{part}")
                for part in ("dat", "info")
            ]
            kinds = self.work / "categories"
            kinds.write_bytes(struct.pack("<5i", 0x1E3D4C54, 1, 40, 1, 1) + bytes(160))
            splits[split] = (f"{split}_", files[0], str(kinds), files[1])
        keys = {"smallnorb_azi": "label_azimuth", "smallnorb_ele": "label_elevation"}
        return {t: self.rows(splits, self.builder("smallnorb"), lambda e, k=k: e[k]) for t, k in keys.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = standins.make_all(Path(folder) / "sources")
        for name in standins.SOURCES:
            if name == "caltech101":
                continue
            for task, splits in getattr(Sources(root, Path(folder)), name)().items():
                for split, rows in splits.items():
                    text = "\n".join(f"{key} {label}" for key, label in rows)
                    print(f'("{task}", "{split}", "{hashlib.sha256(text.encode()).hexdigest()[:16]}"),')


if __name__ == "__main__":
    main()
