"""From splits to batches: decoding, augmentation, an order that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from peftbench.common.errors import UserError
from peftbench.common.seeds import mix
from peftbench.data.base import Split
from peftbench.data.images import Images, Indices, Preparation


@dataclass
class BatchOrder(Sampler[Indices]):
    """The batches of each epoch: a function of seed, epoch and place, and of nothing that happened before.

    `place()` gives (epoch, batches already done in it). A batch is shared out over `world` processes; a trailing
    batch too small to give each at least one image (two where there is one process, for batch-norm) is left out.
    Where `groups` are given, (size,), a training batch is of one group as far as these go; what is left over from
    each comes in mixed batches.
    """

    size: int
    batch_size: int
    seed: int
    shuffle: bool
    rank: int = 0
    world: int = 1
    limit: int | None = None
    place: Callable[[], tuple[int, int]] = field(default=lambda: (0, 0))
    groups: Tensor | None = None

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        least = max(2, self.world) if self.shuffle else 1
        count = whole + (rest >= least) or 1
        return min(count, self.limit) if self.limit else count

    def __iter__(self) -> Iterator[Indices]:
        epoch, done = self.place()
        order = torch.arange(self.size)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            order = torch.randperm(self.size, generator=generator)
            if self.groups is not None:
                order = self._grouped(order, generator)
        for i in range(done, len(self)):
            share = order[i * self.batch_size : (i + 1) * self.batch_size][self.rank :: self.world]
            yield Indices(share.tolist(), mix(self.seed, epoch, i, self.rank) if self.shuffle else None)

    def _grouped(self, order: Tensor, generator: torch.Generator) -> Tensor:
        """The same images in whole batches of one group, these in random order, then the rest."""
        assert self.groups is not None
        batches: list[Tensor] = []
        left = torch.ones(self.size, dtype=torch.bool)
        groups = self.groups[order]
        for group in groups.unique().tolist():
            members = (groups == group).nonzero().squeeze(1)
            whole = members[: len(members) // self.batch_size * self.batch_size]
            left[whole] = False
            batches += whole.split(self.batch_size)
        rest = left.nonzero().squeeze(1).split(self.batch_size)
        batches += [part for part in rest if len(part) == self.batch_size]
        trailing = [part for part in rest if 0 < len(part) < self.batch_size]
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return order[torch.cat([*shuffled, *trailing])]


@dataclass(frozen=True)
class Loaders:
    """Loaders by role; `skipped` names the images left out. Training order is set by `order.place`.

    `ood` are shifted test sets, by name.
    """

    train: DataLoader
    val: DataLoader | None
    test: DataLoader | None
    order: BatchOrder
    skipped: tuple[str, ...]
    ood: Mapping[str, DataLoader] = field(default_factory=dict)

    def load(self, watch: Callable[[int, int], None]) -> None:
        """Decodes into memory what fits and what no stored taps stand in for. Raises UserError: a damaged image."""
        own = [x.dataset for x in (self.train, self.val, self.test, *self.ood.values()) if x is not None]
        for images in own:
            if isinstance(images, Images) and images.stored is None:
                images.load(watch)


def loaders(
    roles: tuple[Split, Split | None, Split | None],
    transform: Preparation,
    *,
    batch_size: int,
    eval_batch_size: int,
    seed: int,
    workers: int = 0,
    on_error: str = "refuse",
    memory_gb: float = 4.0,
    rank: int = 0,
    world: int = 1,
    limit: int | None = None,
    pin: bool = False,
    views: int = 0,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> Loaders:
    """Loaders of uint8 images, clips or scenes for (train, val, test); `batch_size` counts over all processes.

    `seed` decides the order of training batches. Nothing is decoded yet, except to find damaged images to skip.

    Raises:
        UserError: a damaged image, or a batch that cannot be shared out evenly.
    """
    if batch_size % world:
        raise UserError(f"data.batch_size={batch_size}: cannot be shared evenly by {world} devices.")
    plain = replace(transform, augment="none")
    skipped: list[str] = []

    def make(split: Split | None, train: bool) -> tuple[DataLoader, BatchOrder] | None:
        if split is None:
            return None
        images = (transform if train else plain).over(split, on_error, memory_gb, watch, views)
        skipped.extend(images.skipped)
        size = batch_size if train else eval_batch_size * world
        order = BatchOrder(len(images), size, seed, shuffle=train, rank=rank, world=world, limit=limit)
        order.groups = images.groups if train else None
        processes = workers if not images.fits or images.augment is not None else 0
        loader = DataLoader(
            images,
            batch_sampler=order,
            collate_fn=pass_whole_batch,
            num_workers=processes,
            persistent_workers=False,
            pin_memory=pin,
        )
        return loader, order

    train = make(roles[0], True)
    assert train is not None
    val, test = make(roles[1], False), make(roles[2], False)
    return Loaders(train[0], val and val[0], test and test[0], train[1], tuple(skipped))


def images_of(loader: DataLoader | None) -> Images | None:
    """The images that a loader of ours draws from."""
    return None if loader is None else cast(Images, loader.dataset)


def pass_whole_batch(batch: Any) -> Any:
    """Collates nothing: `Images` gives whole batches."""
    return batch
