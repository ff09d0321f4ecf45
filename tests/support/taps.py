"""Small entries of the tap cache, and words of a run that fills one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from peftbench.taps import store
from peftbench.taps.store import Taps, taps_on_disk

RUN = ["method=losa", "backbone=resnet_nano", "data=folder", "trainer.epochs=2", "trainer.max_batches=4", "logger=none"]
RUN += ["data.val_fraction=0.25", "data.test_fraction=0.25"]


def record(folder: Path) -> dict:
    (found,) = folder.glob("[!.]*/result.json")
    return json.loads(found.read_text())


def history(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "train_seconds"} for row in record(folder)["history"]]


def tensors(n: int = 6) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 4, generator=g), torch.randn(n, 5, generator=g).bfloat16()]


def chunks(given: list[torch.Tensor], size: int = 4):
    for at in range(0, len(given[0]), size):
        yield [t[at : at + size] for t in given]


def cached(root: Path, n: int = 6, told: list[str] | None = None, about: str = "a", limit: int = 2**30) -> Taps:
    values = tensors(n)
    tell = [].append if told is None else told.append
    return taps_on_disk(root, {"what": about}, store.size_of_taps(values), limit, lambda: chunks(values), tell)
