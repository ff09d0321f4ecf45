"""From splits to batches: decoding, augmentation, an order that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from peftbench.data.base import Split
from peftbench.errors import UserError

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
# How much larger than the input an image is kept, for augmentations that cut from it.
_MARGIN = {"crop": 8 / 7, "rrc": 2.0}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Transform:
    """From an image to the model's input: squashed to size x size, no crop; then scaled by mean and std."""

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "none"


def decode(source: np.ndarray | Path, size: int, interpolation: str) -> np.ndarray:
    """An image as uint8 (3, size, size): EXIF rotation applied, any mode to RGB, resized without regard to shape."""
    if isinstance(source, np.ndarray):
        image = Image.fromarray(source)
    else:
        with Image.open(source) as opened:
            opened.load()
            image = _upright(opened)
    if image.mode.startswith("I"):  # 16 bit grey: PIL would clip to 255
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB").resize((size, size), _FILTERS[interpolation])
    return np.asarray(image).transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, where that can be read; PIL's own way fails where any other tag is damaged."""
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF beside whole pixels: the image counts as upright
        turn = None
    return image if turn is None else image.transpose(turn)


_TURNS = dict(
    zip(
        range(2, 9),
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        strict=True,
    )
)


class Images(Dataset):
    """A split as tensors: decoded once into memory while it fits, else from disk each time.

    Raises:
        UserError: a damaged image, named, where `on_error` is `refuse`; else it is left out and named in `skipped`.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        on_error: str,
        memory_gb: float,
        watch: Callable[[int, int], None],
    ) -> None:
        self.transform, self.split = transform, split
        self.kept = round(transform.size * _MARGIN.get(transform.augment, 1.0))
        self.skipped: list[str] = []
        self.pixels: Tensor | None = None
        in_memory = len(split) * 3 * self.kept**2 <= memory_gb * 2**30
        if in_memory or on_error == "skip":
            self._decode_all(on_error, watch, in_memory)
        self.labels = torch.from_numpy(self.split.labels)
        self.augment = _augmentation(transform)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A whole batch at once: uint8 images (B, 3, S, S) and labels (B,)."""
        if self.pixels is not None:
            images = self.pixels[torch.as_tensor(batch, dtype=torch.long)]
        elif not batch:
            images = torch.empty((0, 3, self.kept, self.kept), dtype=torch.uint8)
        else:
            images = torch.stack([torch.from_numpy(self._decode(i).copy()) for i in batch])
        if self.augment is not None and batch.seed is not None:
            # Seeded by the batch's place in the run, so that a resumed run sees the same pixels.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(batch.seed)
                images = torch.stack([self.augment(i) for i in images])
        return images, self.labels[torch.as_tensor(batch, dtype=torch.long)]

    def _decode(self, index: int) -> np.ndarray:
        try:
            return decode(self.split.images[index], self.kept, self.transform.interpolation)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            raise UserError(
                f"{self._where(index)}: cannot be read as an image ({problem}); repair or remove it, or leave such "
                f"images out with data.on_error=skip."
            ) from None

    def _where(self, index: int) -> str:
        source = self.split.images[index]
        return str(source) if isinstance(source, Path) else self.split.names[index]

    def _decode_all(self, on_error: str, watch: Callable[[int, int], None], keep: bool) -> None:
        pixels = torch.empty((len(self.split), 3, self.kept, self.kept), dtype=torch.uint8) if keep else None

        def one(index: int) -> bool:
            try:
                image = self._decode(index)
            except UserError:
                if on_error == "refuse":
                    raise
                return False
            if pixels is not None:
                pixels[index] = torch.from_numpy(image.copy())
            return True

        good: list[int] = []
        with ThreadPoolExecutor() as pool:
            for index, fine in enumerate(pool.map(one, range(len(self.split)))):
                watch(index + 1, len(self.split))
                if fine:
                    good.append(index)
                else:
                    self.skipped.append(self._where(index))
        if not good:
            raise UserError(f"none of the {len(self.split)} images can be read, such as {self.skipped[0]}.")
        if self.skipped:
            self.split = self.split.take(good)
            pixels = pixels[torch.tensor(good)] if pixels is not None else None
        self.pixels = pixels


def _augmentation(transform: Transform) -> Callable[[Tensor], Tensor] | None:
    from torchvision.transforms import v2

    size = transform.size
    steps: dict[str, list[Any]] = {
        "flip": [v2.RandomHorizontalFlip()],
        "crop": [v2.RandomCrop(size), v2.RandomHorizontalFlip()],
        "rrc": [v2.RandomResizedCrop(size, scale=(0.3, 1.0), antialias=True), v2.RandomHorizontalFlip()],
        "trivial": [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
    }
    return v2.Compose(steps[transform.augment]) if transform.augment != "none" else None


class Batch(list[int]):
    """Indices of one batch, and the seed of its augmentation."""

    def __init__(self, indices: Sequence[int], seed: int | None) -> None:
        super().__init__(indices)
        self.seed = seed


@dataclass
class Order(Sampler[Batch]):
    """The batches of each epoch: a function of seed, epoch and place, and of nothing that happened before.

    `place()` gives (epoch, batches already done in it). A batch is shared out over `world` processes; a trailing
    batch too small to give each at least one image (two where there is one process, for batch-norm) is left out.
    """

    size: int
    batch_size: int
    seed: int
    shuffle: bool
    rank: int = 0
    world: int = 1
    limit: int | None = None
    place: Callable[[], tuple[int, int]] = field(default=lambda: (0, 0))

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        least = max(2, self.world) if self.shuffle else 1
        count = whole + (rest >= least) or 1
        return min(count, self.limit) if self.limit else count

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self.place()
        order = torch.arange(self.size)
        if self.shuffle:
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(mix(self.seed, epoch)))
        for i in range(done, len(self)):
            share = order[i * self.batch_size : (i + 1) * self.batch_size][self.rank :: self.world]
            yield Batch(share.tolist(), mix(self.seed, epoch, i, self.rank) if self.shuffle else None)


def mix(*numbers: int) -> int:
    """One seed of several numbers (63 bits), different for different numbers."""
    return int(np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(1, np.uint64)[0]) >> 1


@dataclass(frozen=True)
class Loaders:
    """Loaders by role; `skipped` names the images left out. Training order is set by `order.place`.

    `ood` are shifted test sets, by name.
    """

    train: DataLoader
    val: DataLoader | None
    test: DataLoader | None
    order: Order
    skipped: tuple[str, ...]
    ood: Mapping[str, DataLoader] = field(default_factory=dict)


def loaders(
    roles: tuple[Split, Split | None, Split | None],
    transform: Transform,
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
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> Loaders:
    """Loaders of uint8 images for (train, val, test); `batch_size` counts over all processes.

    Raises:
        UserError: a damaged image, or a batch that cannot be shared out evenly.
    """
    if batch_size % world:
        raise UserError(f"data.batch_size={batch_size}: cannot be shared evenly by {world} devices.")
    plain = Transform(transform.size, transform.interpolation, transform.mean, transform.std)
    skipped: list[str] = []

    def make(split: Split | None, train: bool) -> tuple[DataLoader, Order] | None:
        if split is None:
            return None
        images = Images(split, transform if train else plain, on_error, memory_gb, watch)
        skipped.extend(images.skipped)
        size = batch_size if train else eval_batch_size * world
        order = Order(len(images), size, seed, shuffle=train, rank=rank, world=world, limit=limit)
        processes = workers if images.pixels is None or images.augment is not None else 0
        loader = DataLoader(
            images,
            batch_sampler=order,
            collate_fn=whole,
            num_workers=processes,
            persistent_workers=False,
            pin_memory=pin,
        )
        return loader, order

    train = make(roles[0], True)
    assert train is not None
    val, test = make(roles[1], False), make(roles[2], False)
    return Loaders(train[0], val and val[0], test and test[0], train[1], tuple(skipped))


def whole(batch: Any) -> Any:
    """Collates nothing: `Images` gives whole batches."""
    return batch
