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


def plain_batches(
    train: DataLoader, config: Config, device: torch.device, batch_size: int | None
) -> Iterator[list[Any]]:
    """(images, targets) of all training images, the last batch smaller, shuffled by the run's seed.

    `batch_size` None stands for that of training.

    The official code of SPT takes them in the order of the file, which is at random in VTAB's lists; in class folders
    it would be class by class, so that the first batches would show a few classes only.
    """
    images: Images = train.dataset  # type: ignore[assignment]
    if images.kept != images.transform.size or images.views:  # kept larger, for augmentations that cut from it
        plain = replace(images.transform, augment="none")
        images = Images(images.split, plain, "refuse", config.data.memory_gb, lambda done, of: None)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(mix(config.seed, 4)))
    batches = order.split(batch_size or config.data.batch_size)[: config.trainer.max_batches]
    for batch in batches:
        given = images.__getitems__(Indices(batch.tolist(), None))
        yield [given.images.to(device), _moved(given.targets, device)]


def _moved(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, Tensor):
        return targets.to(device)
    return [{name: t.to(device) for name, t in one.items()} for one in targets]
