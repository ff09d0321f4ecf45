"""Training images as a method looks at them before it trains: once, without augmentation, on any number of devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from peftbench.common.seeds import mix
from peftbench.config import Config
from peftbench.data.images import Images, Indices

SIZE = 32
"""Images a batch: SPT's, whatever the batches of training are; of detection they are as in training."""


def plain_batches(train: DataLoader, config: Config, device: torch.device) -> Iterator[list[Any]]:
    """(images, targets) of all training images in batches of 32, the last one smaller, shuffled by the run's seed.

    The official code of SPT takes them in the order of the file, which is at random in VTAB's lists; in class folders
    it would be class by class, so that the first batches would show a few classes only.
    """
    images: Images = train.dataset  # type: ignore[assignment]
    if images.kept != images.transform.size or images.views:  # kept larger, for augmentations that cut from it
        plain = replace(images.transform, augment="none")
        images = Images(images.split, plain, "refuse", config.data.memory_gb, lambda done, of: None)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(mix(config.seed, 4)))
    size = SIZE if config.task.name == "classification" else config.data.batch_size
    batches = order.split(size)[: config.trainer.max_batches]
    for batch in batches:
        loaded = images.__getitems__(Indices(batch.tolist(), None))
        yield [loaded.images.to(device), _moved(loaded.targets, device)]


def _moved(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, Tensor):
        return targets.to(device)
    return [{name: t.to(device) for name, t in target.items()} for target in targets]
