"""Small stand-ins of the original sources of VTAB-1k, in their true formats: `make(source, root)`.

Each writes the files of `peftbench data sources` to `root/<source>/`, with noise for pictures, no two alike; names,
labels and splits are always the same. Every source gives at least 16 images for train, 4 for val and 12 for test.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from peftbench.data.prepare.sources import SOURCES

SIZES = (16, 4, 12)  # what every stand-in has enough images for
WORDS = [f"{role}={size}" for role, size in zip(("train", "val", "test"), SIZES, strict=True)]
_RNG = np.random.default_rng(0)


def make(source: str, root: Path) -> Path:
    """Writes the stand-in of a source, and returns `root`. Patch Camelyon's needs h5py."""
    folder = root / source
    folder.mkdir(parents=True, exist_ok=True)
    _MAKERS[source](folder)
    return root


def make_all(root: Path) -> Path:
    """The stand-ins of all sources."""
    for source in SOURCES:
        make(source, root)
    return root


def noise(height: int = 16, width: int = 20) -> np.ndarray:
    return _RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(kind: str = "JPEG", pixels: np.ndarray | None = None) -> bytes:
    """An image file."""
    packed = io.BytesIO()
    Image.fromarray(noise() if pixels is None else pixels).save(packed, kind)
    return packed.getvalue()


def tar(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def zipped(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _cifar100(folder: Path) -> None:
    def records(count: int) -> bytes:
        rows = _RNG.integers(0, 256, (count, 3074), dtype=np.uint8)
        rows[:, 1] = np.arange(count) % 100
        rows[:, 0] = rows[:, 1] // 5
        return rows.tobytes()

    files = {
        "train.bin": records(60),
        "test.bin": records(20),
        "fine_label_names.txt": "".join(f"fine_{i}\n" for i in range(100)).encode(),
        "coarse_label_names.txt": "".join(f"coarse_{i}\n" for i in range(20)).encode(),
    }
    tar(folder / "cifar-100-binary.tar.gz", {f"cifar-100-binary/{n}": c for n, c in files.items()})


def _caltech101(folder: Path) -> None:
    names = ["BACKGROUND_Google", "Faces", "accordion", *(f"thing_{i:03d}" for i in range(99))]
    images = {f"101_ObjectCategories/{n}/image_{i:04d}.jpg": picture() for n in names for i in range(1, 4)}
    images["101_ObjectCategories/BACKGROUND_Google/tmp"] = b"no image"
    inner = folder / "inner.tar.gz"
    tar(inner, images)
    zipped(folder / "caltech-101.zip", {"caltech-101/101_ObjectCategories.tar.gz": inner.read_bytes()})
    inner.unlink()


def _dtd(folder: Path) -> None:
    files, lists = {}, {"train1": "", "val1": "", "test1": ""}
    for i in range(47):
        for j, split in enumerate(lists):
            name = f"texture{i:02d}/texture{i:02d}_{j:04d}.jpg"
            files[f"dtd/images/{name}"] = picture()
            lists[split] += f"{name}\n"
    files |= {f"dtd/labels/{split}.txt": text.encode() for split, text in lists.items()}
    tar(folder / "dtd-r1.0.1.tar.gz", files, "w")  # a plain tar in spite of its name, as the original is


def _flowers102(folder: Path) -> None:
    from scipy.io import savemat

    tar(folder / "102flowers.tgz", {f"jpg/image_{i:05d}.jpg": picture() for i in range(1, 61)})
    savemat(folder / "imagelabels.mat", {"labels": (np.arange(60, dtype=np.uint8) % 102 + 1)[None]})
    numbers = np.random.default_rng(1).permutation(np.arange(1, 61, dtype=np.uint16))
    parts = {"trnid": numbers[:24], "valid": numbers[24:36], "tstid": numbers[36:]}
    savemat(folder / "setid.mat", {name: part[None] for name, part in parts.items()})


def _pets(folder: Path) -> None:
    breeds = [f"{'Cat' if i % 2 else 'dog'}_breed_{i:02d}" for i in range(37)]
    images, lists = {}, {"trainval": "", "test": ""}
    for i, breed in enumerate(breeds):
        for number, split in ((1, "trainval"), (2, "trainval"), (100, "test")):
            images[f"images/{breed}_{number}.jpg"] = picture("PNG" if number == 2 else "JPEG")
            lists[split] += f"{breed}_{number} {i + 1} {2 - i % 2} {i // 2 + 1}\n"
    images["images/._hidden.jpg"] = b"mac"
    tar(folder / "images.tar.gz", images)
    files = {f"annotations/{split}.txt": text.encode() for split, text in lists.items()}
    tar(folder / "annotations.tar.gz", files | {"annotations/list.txt": b"#Image CLASS-ID SPECIES BREED ID\n"})


def _svhn(folder: Path) -> None:
    from scipy.io import savemat

    for split, count in (("train", 60), ("test", 20)):
        pixels = _RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        savemat(folder / f"{split}_32x32.mat", {"X": pixels, "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]})


def _sun397(folder: Path) -> None:
    classes = ["/a/abbey", "/b/bus_station/outdoor", "/b/bus_station/indoor", "/c/church/outdoor", "/t/track/outdoor"]
    files, lists = {}, {"tr": "", "va": "", "te": ""}
    for name in classes:
        for i in range(12):
            path = f"{name}/sun_{i:04d}.jpg"
            files[f"SUN397{path}"] = picture(("JPEG", "PNG", "BMP", "GIF")[min(i, 3) if name == "/a/abbey" else 0])
            lists["tr" if i < 6 else "va" if i < 8 else "te"] += f"{path}\n"
    broken = "/t/track/outdoor/sun_aophkoiosslinihb.jpg"
    files[f"SUN397{broken}"] = b"cannot be decoded"
    lists["tr"] += f"{broken}\n"
    tar(folder / "SUN397.tar.gz", files)
    for part, text in lists.items():
        (folder / f"sun397_tfds_{part}.txt").write_text(text)


def _patch_camelyon(folder: Path) -> None:
    import h5py

    for split, count in (("train", 20), ("valid", 8), ("test", 14)):
        arrays = {
            "x": _RNG.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8),
            "y": (np.arange(count, dtype=np.uint8) % 2).reshape(-1, 1, 1, 1),
        }
        for part, array in arrays.items():
            plain = folder / "plain.h5"
            with h5py.File(plain, "w") as file:
                file.create_dataset(part, data=array)
            packed = folder / f"camelyonpatch_level_2_split_{split}_{part}.h5.gz"
            packed.write_bytes(gzip.compress(plain.read_bytes()))
            plain.unlink()


def _eurosat(folder: Path) -> None:
    names = SOURCES["eurosat"].names
    zipped(
        folder / "EuroSAT_RGB.zip",
        {f"EuroSAT_RGB/{n}/{n}_{i}.jpg": picture(pixels=noise(64, 64)) for n in names for i in range(1, 9)},
    )


def _resisc45(folder: Path) -> None:
    for name in SOURCES["resisc45"].names:
        for i in range(1, 4):
            path = folder / "NWPU-RESISC45" / name / f"{name}_{i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture())


def _retinopathy(folder: Path) -> None:
    def eye() -> np.ndarray:
        y, x = np.ogrid[:60, :80]
        return np.where(((y - 30) ** 2 + (x - 40) ** 2 < 28**2)[..., None], noise(60, 80) // 2 + 60, 0).astype(np.uint8)

    rows: dict[str, list[tuple]] = {"train": [], "test": []}
    for split, count in (("train", 18), ("test", 20)):
        (folder / split).mkdir()
        for i in range(count):
            name = f"{i // 2 + 1}_{'right' if i % 2 else 'left'}"
            (folder / split / f"{name}.jpeg").write_bytes(picture(pixels=eye()))
            rows[split].append((name, i % 5, "Public" if i % 3 == 0 else "Private"))
    for file, header, split in (
        ("trainLabels.csv", ("image", "level"), "train"),
        ("retinopathy_solution.csv", ("image", "level", "Usage"), "test"),
    ):
        with (folder / file).open("w", newline="") as table:
            csv.writer(table).writerows([header, *(row[: len(header)] for row in rows[split])])


def _clevr(folder: Path) -> None:
    files: dict[str, bytes] = {}
    for split, count in (("train", 40), ("val", 20), ("test", 2)):
        scenes = []
        for i in range(count):
            name = f"CLEVR_{split}_{i:06d}.png"
            files[f"CLEVR_v1.0/images/{split}/{name}"] = picture("PNG", noise(32, 48))
            near = 7.75 + i % 6 * 0.5
            objects = [{"pixel_coords": [10, 20, near + j], "shape": "cube"} for j in range(3 + i % 8)]
            scenes.append({"image_filename": name, "image_index": i, "objects": objects})
        if split != "test":
            text = json.dumps({"info": {}, "scenes": scenes})
            files[f"CLEVR_v1.0/scenes/CLEVR_{split}_scenes.json"] = text.encode()
    zipped(folder / "CLEVR_v1.0.zip", files)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def tf_example(**features: bytes | int) -> bytes:
    entries = b""
    for name, value in features.items():
        kind = message(1, message(1, value)) if isinstance(value, bytes) else message(3, message(1, varint(value)))
        entries += message(1, message(1, name.encode()) + message(2, kind))
    return message(1, entries)


def tf_record(data: bytes) -> bytes:
    """A record with its checksums, by a CRC-32C that goes bit by bit: another one than the reader's."""

    def masked(content: bytes) -> int:
        crc = 0xFFFFFFFF
        for byte in content:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        crc ^= 0xFFFFFFFF
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def _dmlab(folder: Path) -> None:
    files = {}
    for split, count in (("train", 20), ("validation", 8), ("test", 14)):
        for shard in range(2):
            records = [
                tf_example(image=picture(pixels=noise(36, 48)), filename=f"{split}_{i}.jpg".encode(), label=i % 6)
                for i in range(shard, count, 2)
            ]
            files[f"dmlab-{split}.tfrecord-{shard:05d}-of-00002"] = b"".join(map(tf_record, records))
    tar(folder / "dmlab.tar.gz", files)


def _kitti(folder: Path) -> None:
    images, labels = {}, {}
    count, videos = 180, 15
    for i in range(count):
        images[f"training/image_2/{i:06d}.png"] = picture("PNG", noise(12, 40))
        lines = ["DontCare -1 -1 -10 1.0 2.0 3.0 4.0 -1 -1 -1 -1000 -1000 -1000 -10"]
        lines += ["Pedestrian 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 2.41 0.01"]
        z = (4.5, 12.25, 60.0, None)[i % 4]
        if z is not None:
            kind = ("Car", "Van", "Truck")[i % 3]
            lines += [f"{kind} 0.00 0 1.55 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 {z:.2f} 1.62"]
        labels[f"training/label_2/{i:06d}.txt"] = ("\n".join(lines) + "\n").encode()
    images["testing/image_2/000000.png"] = picture("PNG", noise(12, 40))
    zipped(folder / "data_object_image_2.zip", images)
    zipped(folder / "data_object_label_2.zip", labels)
    mapping = "".join(f"2011_09_26 2011_09_26_drive_{i % videos:04d}_sync {i:010d}\n" for i in range(count))
    order = np.random.default_rng(2).permutation(count) + 1
    zipped(
        folder / "devkit_object.zip",
        {"mapping/train_mapping.txt": mapping.encode(), "mapping/train_rand.txt": ",".join(map(str, order)).encode()},
    )


def _dsprites(folder: Path) -> None:
    count = 320
    latents = np.stack([np.arange(count) % n for n in (1, 3, 6, 40, 32, 32)], axis=1).astype(np.int64)
    name = SOURCES["dsprites"].files[0].name
    pixels = _RNG.integers(0, 2, (count, 64, 64), dtype=np.uint8)
    facts = np.array({"title": "the original has a pickle here"}, dtype=object)
    np.savez_compressed(folder / name, metadata=facts, imgs=pixels, latents_classes=latents, latents_values=latents)


def norb(values: np.ndarray) -> bytes:
    """One of SmallNORB's binary matrices."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[str(values.dtype)]
    shape = (*values.shape, 1, 1, 1)[: max(3, values.ndim)]
    return struct.pack(f"<{2 + len(shape)}i", magic, values.ndim, *shape) + values.tobytes()


def _smallnorb(folder: Path) -> None:
    each = np.arange(40)
    facts = np.stack([each % 10, each % 9, each % 18 * 2, each % 6], axis=1).astype(np.int32)
    for file in SOURCES["smallnorb"].files:
        part = file.name.removesuffix(".mat.gz").rpartition("-")[2]
        pixels = _RNG.integers(0, 256, (len(each), 2, 96, 96), dtype=np.uint8)
        (folder / file.name).write_bytes(gzip.compress(norb({"dat": pixels, "info": facts}[part])))


_MAKERS: dict[str, Callable[[Path], None]] = {
    "cifar100": _cifar100,
    "caltech101": _caltech101,
    "dtd": _dtd,
    "flowers102": _flowers102,
    "oxford_iiit_pet": _pets,
    "svhn": _svhn,
    "sun397": _sun397,
    "patch_camelyon": _patch_camelyon,
    "eurosat": _eurosat,
    "resisc45": _resisc45,
    "diabetic_retinopathy": _retinopathy,
    "clevr": _clevr,
    "dmlab": _dmlab,
    "kitti": _kitti,
    "dsprites": _dsprites,
    "smallnorb": _smallnorb,
}
