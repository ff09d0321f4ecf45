"""Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 grey images of 28 x 28 pixels, ten classes, read from disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.data.base import DataSet, Split, Splits, stratified


@dataclass(frozen=True)
class FashionMNIST(DataSet):
    """`root` holds FashionMNIST/raw/*-ubyte(.gz), as torchvision lays it out, or the four .gz files themselves.

    The official training set gives `val_fraction` of each class to validation (made with `split_seed`).
    """

    places: ClassVar[tuple[str, ...]] = ("root",)

    root: str = "data"
    val_fraction: float = 0.1
    split_seed: int = 0
    download: bool = False

    def load(self) -> Splits:
        from torchvision.datasets import FashionMNIST as Torchvision
        from torchvision.datasets.mnist import read_image_file, read_label_file

        if not 0 <= self.val_fraction < 1:
            raise UserError(f"data.val_fraction={self.val_fraction}: expected at least 0 and below 1.")
        root = Path(os.path.expanduser(self.root))
        raw = root / "FashionMNIST" / "raw"
        if self.download:
            try:
                Torchvision(str(root), download=True)
            except Exception as problem:
                raise UserError(
                    f"data.download=true: the files could not be fetched into {root} ({first_sentence(problem)})."
                ) from None
        if not raw.is_dir():
            raw = root
        parts = []
        for stem in ("train", "t10k"):
            files = [_find(raw, f"{stem}-{kind}-ubyte", root) for kind in ("images-idx3", "labels-idx1")]
            try:
                images, labels = _idx(files[0], read_image_file), _idx(files[1], read_label_file)
            except Exception as problem:  # gzip, struct and assertion errors all mean a damaged file
                raise UserError(f"{raw}: the {stem} files are damaged ({problem}); download them again.") from None
            if len(images) != len(labels):
                raise UserError(f"{raw}: {len(images)} {stem} images but {len(labels)} labels; download them again.")
            parts.append(Split(images, labels.astype(np.int64), [f"{stem}/{i:05d}" for i in range(len(images))]))
        train, val = stratified(parts[0].labels, (self.val_fraction,), self.split_seed)
        return Splits(
            "fashion_mnist-v1",
            tuple(Torchvision.classes),
            parts[0].take(train),
            parts[0].take(val) if len(val) else None,
            parts[1],
            trainval=parts[0],
        )


def _find(raw: Path, stem: str, root: Path) -> Path:
    for path in (raw / stem, raw / f"{stem}.gz"):
        if path.is_file():
            return path
    raise UserError(
        f"data.root={root}: {stem} was looked for in {raw} (also as .gz) and is not there; put the four files there, "
        f"or download them with data.download=true."
    )


def _idx(path: Path, reader) -> np.ndarray:
    if path.suffix != ".gz":
        return reader(str(path)).numpy()
    import tempfile

    from peftbench.data.prepare.tree import gunzipped_content

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        plain.write_bytes(gunzipped_content(path))
        return reader(str(plain)).numpy()
