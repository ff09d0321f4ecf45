"""A small detection set in COCO's format, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.base import Splits
from peftbench.data.boxes import BoxSet
from peftbench.data.coco import CocoFolder


def box(id_: int, image: int, category: int = 3, bbox: Any = (1, 2, 10, 5), **more: Any) -> dict[str, Any]:
    return {"id": id_, "image_id": image, "category_id": category, "bbox": list(bbox), **more}


def good() -> dict[str, Any]:
    """Three images of 20 x 30 (height x width), two classes with gapped ids, a crowd, an image without boxes."""
    return {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (5, 7, 9)],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "apple", "supercategory": "fruit"}],
        "annotations": [
            box(1, 5, 90, area=12.5, iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]),
            box(2, 5, 3, (20, 10, 40, 40)),
            box(4, 9, 3, (0, 0, 30, 20), iscrowd=1, segmentation={"counts": [1, 2], "size": [20, 30]}),
        ],
    }


def write(root: Path, content: Any, name: str = "annotations/instances_train.json") -> Path:
    """A JSON file, and the images that it lists."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (root / "images").mkdir(exist_ok=True)
    for i in (5, 7, 9):
        if not (root / "images" / f"{i}.png").exists():
            Image.new("RGB", (30, 20), (i, 0, 0)).save(root / "images" / f"{i}.png")
    return root


def changed(**parts: Any) -> dict[str, Any]:
    return good() | parts


def load(root: Path, **options: Any) -> Splits:
    return CocoFolder(root=str(root), **{"val": None, "empty": True, **options}).load()


def refusal(dataset: BoxSet) -> str:
    with pytest.raises(UserError) as told:
        dataset.load()
    assert "\n" not in str(told.value)
    return str(told.value)
