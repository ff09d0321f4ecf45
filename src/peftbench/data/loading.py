"""From splits to batches: decoding, augmentation, an order that can be resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from peftbench.data.base import Split
from peftbench.data.media import DAMAGED, read_clip, upright
from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.data.scenes import SceneTransform

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
# How much larger than the input an image is kept, for augmentations that cut from it.
_MARGIN = {"crop": 8 / 7, "rrc": 2.0}
Picture = np.ndarray | str | Path | Image.Image
"""What an image is read from: pixels (H, W) or (H, W, 3) in uint8, a file, or PIL's own."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Transform:
    """From an image to the model's input: squashed to size x size, no crop; then scaled by mean and std."""

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "none"

    def __call__(self, image: Picture) -> Tensor:
        """uint8 (3, size, size) of a file, a PIL image, or pixels (H, W) or (H, W, 3) in uint8.

        A model of ours normalises it.

        Raises:
            UserError: it cannot be read as an image.
        """
        try:
            return torch.from_numpy(decode(image, self.size, self.interpolation).copy())
        except DAMAGED as problem:
            name = image if isinstance(image, str | Path) else "this image"
            raise UserError(f"{name}: cannot be read as an image ({problem}).") from None

    def over(
        self, split: Split, on_error: str, memory_gb: float, watch: Callable[[int, int], None], views: int = 0
    ) -> Images:
        """A split's images in this form."""
        return Images(split, self, on_error, memory_gb, watch, views)


def decode(source: Picture, size: int | tuple[int, int], interpolation: str) -> np.ndarray:
    """An image as uint8 (3, size, size), or (3, *size): EXIF rotation applied, any mode to RGB, resized.

    Its own shape is not kept.
    """
    height, width = (size, size) if isinstance(size, int) else size
    image = rgb(opened(source)).resize((width, height), FILTERS[interpolation])
    return np.asarray(image).transpose(2, 0, 1)


def opened(source: Picture) -> Image.Image:
    """An image of any mode, turned as its EXIF says.

    Raises:
        UserError: it is nothing that holds an image.
        OSError, ValueError: it cannot be read as one (`media.DAMAGED`).
    """
    if isinstance(source, np.ndarray):
        try:
            return Image.fromarray(source)
        except TypeError:
            raise UserError(
                f"pixels of shape {list(source.shape)} in {source.dtype}: expected (H, W) or (H, W, 3) in uint8."
            ) from None
    if isinstance(source, Image.Image):
        source.load()  # some files keep their EXIF behind the pixels
        return upright(source)
    if not isinstance(source, str | Path):
        raise UserError(f"an image in a {type(source).__name__}: expected a file, a PIL image or pixels in NumPy.")
    with Image.open(source) as file:
        file.load()
        return upright(file)


def rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB."""
    if image.mode.startswith("I"):  # 16 bit grey: PIL would clip to 255
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def decode_clip(clip: Path, frames: int, size: int, interpolation: str) -> np.ndarray:
    """A clip as uint8 (frames, 3, size, size): a folder of images or a video file; each frame as `decode` makes it."""

    def read(frame: np.ndarray | Path) -> np.ndarray:
        try:
            return decode(frame, size, interpolation)
        except DAMAGED as problem:
            raise ValueError(f"{frame.name}: {problem}" if isinstance(frame, Path) else str(problem)) from None

    return np.stack(read_clip(clip, frames, read))


class Batch(NamedTuple):
    """Images with their targets: uint8, (B, 3, S, S), or clips, (B, T, 3, S, S).

    Where `taps` stand in for them, the images are empty: (B, 3, 0, 0), or (B, T, 3, 0, 0) with taps (B * T, …).
    """

    images: Tensor
    targets: Any
    taps: list[Tensor] | None = None


class Images(Dataset):
    """A split as tensors: decoded once into memory while it fits, else from disk each time.

    Attributes:
        views: 0, or how many fixed augmented views stand for each image; training then draws among them.
        stored: once set, gives the taps of rows, and no image is decoded for training any more.

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
        views: int = 0,
    ) -> None:
        self.kept = round(transform.size * _MARGIN.get(transform.augment, 1.0))
        shape = (*(() if split.frames is None else (split.frames,)), 3, self.kept, self.kept)
        self.transform, self.augment = transform, _augmentation(transform)
        self.views = views if self.augment is not None else 0
        self._begin(split, shape, len(split) * math.prod(shape) <= memory_gb * 2**30, on_error, watch)

    def _begin(
        self, split: Split, shape: tuple[int, ...], fits: bool, on_error: str, watch: Callable[[int, int], None]
    ) -> None:
        self.split, self.shape, self.fits = split, shape, fits
        self.kind = "image" if split.frames is None else "clip"
        self.skipped: list[str] = []
        self.pixels: Tensor | None = None
        self.stored: Callable[[Tensor], list[Tensor]] | None = None
        if on_error == "skip":
            self._decode_all(on_error, watch, self.fits)

    @property
    def groups(self) -> Tensor | None:
        """The group of each image, (N,), where batches should be of one group."""
        return None

    def load(self, watch: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Decodes into memory, if the images fit and are not there yet."""
        if self.fits and self.pixels is None:
            self._decode_all("refuse", watch, True)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def rows(self) -> int:
        """How many different pictures there are: images times views."""
        return len(self) * max(self.views, 1)

    def __getitems__(self, batch: Indices) -> Batch:
        """A whole batch at once, augmented where it has a seed."""
        indices = torch.as_tensor(batch, dtype=torch.long)
        targets = torch.from_numpy(self.split.labels)[indices]
        if self.views:
            seed = 0 if batch.seed is None else batch.seed
            view = torch.randint(self.views, indices.shape, generator=torch.Generator().manual_seed(seed))
            indices = indices * self.views + view
        if self.stored is not None:
            nothing = torch.empty((len(batch), *self.shape[:-2], 0, 0), dtype=torch.uint8)
            taps = self.stored(indices)
            return Batch(nothing, targets, taps if self.split.frames is None else [t.flatten(0, 1) for t in taps])
        images = self.pictures(indices)
        if self.augment is not None and not self.views and batch.seed is not None:
            # Seeded by the batch's place in the run, so that a resumed run sees the same pixels.
            images = self._augmented(images, batch.seed)
        return Batch(images, targets)

    def pictures(self, rows: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) or clips (B, T, 3, S, S): row i is image i, or view i % views of i // views."""
        self.load()
        indices = rows // max(self.views, 1)
        if self.pixels is not None:
            images = self.pixels[indices]
        elif not len(indices):
            images = torch.empty((0, *self.shape), dtype=torch.uint8)
        else:
            images = torch.stack([torch.from_numpy(self._decode(i).copy()) for i in indices.tolist()])
        if self.views:
            views = [self._augmented(i[None], mix(int(row), 2)) for i, row in zip(images, rows, strict=True)]
            images = torch.cat(views) if views else images
        return images

    def _augmented(self, images: Tensor, seed: int) -> Tensor:
        assert self.augment is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.stack([self.augment(i) for i in images])  # one draw for all frames of a clip

    def _decode(self, index: int) -> np.ndarray:
        source, how = self.split.images[index], (self.kept, self.transform.interpolation)
        try:
            if self.split.frames is None:
                return decode(source, *how)
            return decode_clip(source, self.split.frames, *how)
        except DAMAGED as problem:
            raise self._damaged(index, problem) from None

    def _damaged(self, index: int, problem: Exception) -> UserError:
        a = "an" if self.kind == "image" else "a"
        return UserError(
            f"{self._where(index)}: cannot be read as {a} {self.kind} ({problem}); repair or remove it, or leave "
            f"such {self.kind}s out with data.on_error=skip."
        )

    def _where(self, index: int) -> str:
        source = self.split.images[index]
        return str(source) if isinstance(source, Path) else self.split.names[index]

    def _decode_all(self, on_error: str, watch: Callable[[int, int], None], keep: bool) -> None:
        pixels = torch.empty((len(self.split), *self.shape), dtype=torch.uint8) if keep else None

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
            raise UserError(f"none of the {len(self.split)} {self.kind}s can be read, such as {self.skipped[0]}.")
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
    if transform.augment == "none":
        return None
    if transform.augment not in steps:
        raise UserError(
            f"data.augment={transform.augment}: is for detection; for classification give none, {', '.join(steps)}."
        )
    return v2.Compose(steps[transform.augment])


class Indices(list[int]):
    """Indices of one batch, and the seed of its augmentation."""

    def __init__(self, indices: Sequence[int], seed: int | None) -> None:
        super().__init__(indices)
        self.seed = seed


@dataclass
class Order(Sampler[Indices]):
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

    def load(self, watch: Callable[[int, int], None]) -> None:
        """Decodes into memory what fits and what no stored taps stand in for. Raises UserError: a damaged image."""
        own = [x.dataset for x in (self.train, self.val, self.test, *self.ood.values()) if x is not None]
        for images in own:
            if isinstance(images, Images) and images.stored is None:
                images.load(watch)


def loaders(
    roles: tuple[Split, Split | None, Split | None],
    transform: Transform | SceneTransform,
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

    def make(split: Split | None, train: bool) -> tuple[DataLoader, Order] | None:
        if split is None:
            return None
        images = (transform if train else plain).over(split, on_error, memory_gb, watch, views)
        skipped.extend(images.skipped)
        size = batch_size if train else eval_batch_size * world
        order = Order(len(images), size, seed, shuffle=train, rank=rank, world=world, limit=limit)
        order.groups = images.groups if train else None
        processes = workers if not images.fits or images.augment is not None else 0
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


def images_of(loader: DataLoader | None) -> Images | None:
    """The images that a loader of ours draws from."""
    return None if loader is None else cast(Images, loader.dataset)


def whole(batch: Any) -> Any:
    """Collates nothing: `Images` gives whole batches."""
    return batch
