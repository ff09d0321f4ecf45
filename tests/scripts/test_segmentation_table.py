"""The table of real sets of masks, of records that lie there."""

import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from support.places import ROOT


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("segmentation_table")
    for name in ("segmentation_table", "trials"):
        sys.modules.pop(name, None)


def test_a_cell_is_of_all_seeds_and_the_majority_class_is_counted(tables, tmp_path):
    for seed in range(5):
        folder = tables.folder_of(tmp_path, "leaves", "lora") / str(seed)
        folder.mkdir(parents=True)
        record = {"status": "complete", "config": {"seed": seed, "data": {"stage": "final"}}}
        record |= {"costs": {"parameters": {"method": 1234}}, "metrics": {"test/mIoU": 0.7 + seed / 100}}
        (folder / "result.json").write_text(json.dumps(record))
    root = tmp_path / "set"
    for role, values in {"train": [1] * 10 + [0] * 6, "test": [1] * 4 + [0] * 8 + [255] * 4}.items():
        for kind in ("images", "masks"):
            (root / kind / role).mkdir(parents=True)
            pixels = np.array(values, np.uint8).reshape(4, 4)
            Image.fromarray(pixels if kind == "masks" else np.stack([pixels] * 3, -1)).save(
                root / kind / role / "a.png"
            )
    (root / "classes.txt").write_text("one\ntwo\n")
    tables._keep_majority(tmp_path, "leaves", root)
    table = tables.table(tmp_path).splitlines()
    assert "| the majority class | | 16.7 |  |" in table  # 4 of 12 known pixels, and nothing of the other class
    assert "| `method=lora` | 1,234 | 72.0 ± 2.0 |  |" in table  # 2.776 · 1.58 / sqrt(5)
    assert "| `method=full` |  |  |  |" in table
    assert tables.rates("full") == [0.0001, 0.001]
