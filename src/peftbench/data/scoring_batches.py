"""Training images as a method looks at them before it trains: once, without augmentation, on any number of devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from peftbench.common.seeds import mix
from peftbench.config import Config
from peftbench.data.images import Images, Indices
from peftbench.data.moving import to_device


def plain_batches(train: DataLoader, config: Config, device: torch.device) -> Iterator[list[Any]]:
    """[images, targets] of all training images, on `device`, in batches shuffled by the run's seed.

    A batch has 32 images, as SPT's have, whatever the batches of training are; scenes come in training's batches. The
    official code of SPT takes them in the order of the file, which is at random in VTAB's lists; in class folders
    it would be class by class, so that the first batches would show a few classes only.
    """
    images: Images = train.dataset  # type: ignore[assignment]
    batch_size = images.scored_at_once or config.data.batch_size
    if images.kept != images.transform.size or images.views:  # kept larger, for augmentations that cut from it
        plain = images.transform.plain()
        images = plain.over(images.split, "refuse", config.data.memory_gb, lambda done, of: None)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(mix(config.seed, 4)))
    for indices in order.split(batch_size)[: config.trainer.max_batches]:
        batch = images.__getitems__(Indices(indices.tolist(), None))
        yield to_device([batch.images, batch.targets], device)
