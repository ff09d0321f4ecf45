"""A small detection set in YOLO's form, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

BOX = "1 0.5 0.5 0.2 0.4"
DATA = "train: images/train\nval: images/val\nnames: [apple, zebra]\n"


def write_yolo(root: Path, data: str = DATA, **labels: str | None) -> Path:
    """`train_a="1 0.5 …"` is images/train/a.png of 30 x 20 with these labels; None writes no label file."""
    root.mkdir(exist_ok=True)
    (root / "data.yaml").write_text(data, encoding="utf-8")
    for number, (name, text) in enumerate({"train_a": BOX, "val_b": BOX, **labels}.items()):
        role, _, stem = name.partition("_")
        for folder in ("images", "labels"):
            (root / folder / role).mkdir(parents=True, exist_ok=True)
        pixels = np.full((20, 30, 3), number, dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / role / f"{stem}.png")
        if text is not None:
            (root / "labels" / role / f"{stem}.txt").write_text(text, encoding="utf-8")
    return root
