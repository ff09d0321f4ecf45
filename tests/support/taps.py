"""Small entries of the tap cache, and words of a run that fills one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.data.images import Images
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs.build import build_backbone, instantiate, transform_of
from peftbench.taps import store
from peftbench.taps.kept import Taps
from peftbench.taps.store import taps_on_disk
from peftbench.tasks.base import task_class

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


def model_and_images(config: Config, count: int, views: int = 0) -> tuple[Model, Images]:
    """The adapted model of a config with three classes, and so many random images as it takes them."""
    backbone = build_backbone(config)
    model = Model(backbone, task_class(config.task).build(config.task, backbone, ["a", "b", "c"]))
    model.adapted(instantiate(config.method).adapt(backbone, Plan()))
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    split = Split(pixels, np.arange(count) % 3, [str(i) for i in range(count)])
    return model, transform_of(config, backbone).over(split, "refuse", 4.0, lambda done, of: None, views)
