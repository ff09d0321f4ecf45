"""From splits to batches: decoding, augmentation, an order that can be resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.common.seeds import mix
from peftbench.config import Data
from peftbench.data.balancing import balanced_order
from peftbench.data.base import Split
from peftbench.data.images import Images, Indices, Preparation, Whole
from peftbench.data.mixing import Mixing
from peftbench.data.read_ahead import Loader
from peftbench.data.readers import cores, reading
from peftbench.data.worker_handover import whole_batch


@dataclass(frozen=True)
class Share:
    """Which part of every batch this process reads: the `process`-th image, and every `processes`-th after it."""

    process: int = 0
    processes: int = 1

    def of(self, indices: Tensor) -> Tensor:
        """Its part of the indices (B,) of a batch."""
        return indices[self.process :: self.processes]


@dataclass
class BatchOrder(Sampler[Indices]):
    """The batches of each epoch: a function of seed, epoch and place, and of nothing that happened before.

    A trailing training batch too small to give each process at least one image (two where there is one process, for
    batch-norm) is left out.

    Attributes:
        size: the number of images.
        batch_size: images a batch, over all processes together.
        shuffle: whether this is training: another order in each epoch, and a seed for each batch.
        limit: so many batches an epoch at most.
        place: gives (epoch, batches already done in it).
        groups: (size,), the group of each image. A training batch is then of one group as far as these go; what is
            left over from each comes in mixed batches.
        labels: (size,), the class of each image, where all classes should be seen equally often.
    """

    size: int
    batch_size: int
    seed: int
    shuffle: bool
    share: Share = Share()
    limit: int | None = None
    place: Callable[[], tuple[int, int]] = field(default=lambda: (0, 0))
    groups: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        least = max(2, self.share.processes) if self.shuffle else 1
        count = whole + 1 if rest >= least else max(whole, 1)
        return min(count, self.limit) if self.limit else count

    @property
    def images(self) -> int:
        """How many images an epoch reads, or an evaluation looks at, in all processes together."""
        return min(self.size, len(self) * self.batch_size)

    def __iter__(self) -> Iterator[Indices]:
        epoch, done = self.place()
        order = torch.arange(self.size)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            if self.labels is None:
                order = torch.randperm(self.size, generator=generator)
            else:
                order = balanced_order(self.labels, generator)
            if self.groups is not None:
                order = self._grouped(order, generator)
        for i in range(done, len(self)):
            batch = order[i * self.batch_size : (i + 1) * self.batch_size]
            part = self.share.of(batch)
            if not self.shuffle:
                yield Indices(part.tolist(), None)
                continue
            whole = Whole(batch, self.share.of(torch.arange(len(batch))), mix(self.seed, epoch, i))
            yield Indices(part.tolist(), mix(self.seed, epoch, i, self.share.process), whole)

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
    """Loaders by role.

    Attributes:
        order: that of the training batches; `order.place` says where it goes on.
        skipped: names the images that were left out because they are damaged.
        ood: shifted test sets, by name.
        chosen: whether the number of processes that read was left to us.
    """

    train: Loader
    val: Loader | None
    test: Loader | None
    order: BatchOrder
    skipped: tuple[str, ...]
    ood: Mapping[str, Loader] = field(default_factory=dict)
    chosen: bool = False

    def images(self) -> dict[str, int]:
        """How many images an epoch reads, over all processes together, by role; `ood/<name>` of a shifted set."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        parts |= {f"ood/{name}": loader for name, loader in self.ood.items()}
        return {role: cast(BatchOrder, p.batch_sampler).images for role, p in parts.items() if p is not None}

    def load(self, watch: Watch) -> None:
        """Decodes into memory what fits and what no stored taps stand in for; these are read here, without processes.

        Raises:
            UserError: a damaged image.
        """
        for loader in (self.train, self.val, self.test, *self.ood.values()):
            images = None if loader is None else loader.dataset
            if isinstance(images, Images) and images.stored is None:
                images.load(watch)
            elif isinstance(images, Images) and self.chosen and loader is not None:
                loader.num_workers, loader.prefetch_factor = 0, None


def loaders(
    roles: tuple[Split, Split | None, Split | None],
    transform: Preparation,
    options: Data,
    *,
    seed: int,
    share: Share = Share(),
    limit: int | None = None,
    pin: bool = False,
    views: int = 0,
    classes: int = 0,
    neighbours: int = 1,
    threads: int | None = None,
    watch: Watch = lambda done, of: None,
) -> Loaders:
    """Loaders of uint8 images, clips or scenes for (train, val, test).

    Nothing is decoded yet, except to find damaged images to skip.

    Args:
        roles: the splits; val and test may be missing.
        transform: how training images are prepared; the others are so without its augmentation.
        options: batch sizes (that of training counts over all processes), workers, memory, what to do about damage.
        seed: the run's, which decides the order of training batches where `options.order_seed` does not.
        share: which part of each batch this process reads.
        limit: so many batches an epoch at most.
        pin: whether batches lie in pinned memory, for a GPU.
        views: how many fixed augmented views stand for each training image; 0 augments anew each time.
        classes: how many classes there are, for images that are mixed.
        neighbours: processes of this run on this machine, which share its cores.
        threads: of the processor that this run may use; None is all.
        watch: called with the number of images that have been decoded, and of how many.

    Raises:
        UserError: a damaged image, or a batch that cannot be shared out evenly.
    """
    if options.batch_size % share.processes:
        raise UserError(f"data.batch_size={options.batch_size}: cannot be shared evenly by {share.processes} devices.")
    if options.order_seed is not None:
        seed = options.order_seed
    plain = transform.plain()
    skipped: list[str] = []

    def make_loader(split: Split, train: bool) -> Loader:
        images = (transform if train else plain).over(split, options.on_error, options.memory_gb, watch, views)
        skipped.extend(images.skipped)
        batch_size = options.batch_size if train else options.eval_batch_size * share.processes
        order = BatchOrder(len(images), batch_size, seed, train, share, limit)
        if train:
            images.mixing, order.groups = Mixing.of(options, classes), images.groups
            order.labels = torch.from_numpy(images.split.labels) if options.sampler == "balanced" else None
        decodes = not images.fits or images.augment is not None or images.mixing is not None
        readers = reading(
            options.workers if decodes else 0,
            images=order.images // share.processes,
            batch_bytes=batch_size // share.processes * math.prod(images.shape),
            from_memory=images.fits,
            again=train,
            share=max(cores(threads) // neighbours, 1),
        )
        return Loader(images, batch_sampler=order, collate_fn=whole_batch, pin_memory=pin, **readers)

    train = make_loader(roles[0], True)
    val, test = (None if split is None else make_loader(split, False) for split in roles[1:])
    order = cast(BatchOrder, train.batch_sampler)
    return Loaders(train, val, test, order, tuple(skipped), chosen=options.workers == "auto")


def images_of(loader: DataLoader | None) -> Images | None:
    """The images that a loader of ours draws from."""
    return None if loader is None else cast(Images, loader.dataset)
