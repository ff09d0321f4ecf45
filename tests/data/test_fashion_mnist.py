"""Fashion-MNIST from its four files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from peftbench.data.base import split_hash
from peftbench.data.fashion_mnist import FashionMNIST
from support.datasets import refuses


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
