"""Splits as batches of tensors: how images are prepared, augmented and kept in memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from peftbench.common.errors import Refusal, UserError
from peftbench.common.progress import Watch
from peftbench.common.seeds import mix, random_numbers_kept
from peftbench.data.augmentation import MARGIN, augmentation
from peftbench.data.base import Split
from peftbench.data.batch_indices import Indices, Whole
from peftbench.data.decoding import Picture, Resizing, at_home, decode_clip, decode_image
from peftbench.data.decoding_ahead import decoded_ahead
from peftbench.data.drawn_changes import Drawn, applied, draw
from peftbench.data.media import DAMAGED
from peftbench.data.mixing import Mixing
from peftbench.data.pixel_values import Range

_DECODED_AT_ONCE = 16
"""Images that a thread takes at a time: handing over each alone costs more than decoding a small one."""


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Preparation(Protocol):
    """How a task prepares images for its model: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def size(self) -> Any:
        """Pixels of the input; None where images keep their shapes."""
        ...

    @property
    def interpolation(self) -> str: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    @property
    def augment(self) -> str: ...

    @property
    def range(self) -> Range: ...

    def plain(self) -> Preparation:
        """Without what is for training alone."""
        ...

    def __call__(self, image: Picture) -> Any:
        """The pixels of one image, in uint8, and what else the task needs of it. Raises UserError."""
        ...

    def over(
        self, split: Split, on_error: str, memory_gb: float, watch: Callable[[int, int], None], views: int = 0
    ) -> Images:
        """A split's images in this form."""
        ...


@dataclass(frozen=True)
class Transform:
    """From an image to the model's input: resized to size x size; then scaled by mean and std.

    Attributes:
        size: pixels of a side.
        interpolation: a filter of `FILTERS`.
        mean, std: the normalisation, in units of the range 0 to 1, which the model applies.
        augment: none, flip, crop, rrc, trivial or randaugment.
        range: which values of images of more than 8 bits are black and white.
        resize: squash, crop or pad: what becomes of an image that is no square.
        jitter: how far the colours of training images are changed.
        erase: how many of them lose a part, as a share.
        draft: whether JPEGs are decoded in about the size that is needed (`decoding.Resizing`).
        augment_on: host or device: where training images are changed.
    """

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "none"
    range: Range = "auto"
    resize: str = "squash"
    jitter: float = 0.0
    erase: float = 0.0
    draft: bool = False
    augment_on: str = "host"

    @property
    def colour(self) -> tuple[int, int, int]:
        """RGB of what is padded or erased: the mean's, so that it is about 0 to the model."""
        red, green, blue = (min(max(round(255 * value), 0), 255) for value in self.mean)
        return red, green, blue

    @property
    def resizing(self) -> Resizing:
        """How an image comes to the shape of the input."""
        return Resizing(self.interpolation, self.resize, self.colour, self.draft)

    def plain(self) -> Transform:
        """Without what is for training alone."""
        return replace(self, augment="none", jitter=0.0, erase=0.0, augment_on="host")

    def __call__(self, image: Picture) -> Tensor:
        """uint8 (3, size, size) of a file, a PIL image, or pixels (H, W) or (H, W, 3) in uint8; not yet normalised.

        Raises:
            UserError: it cannot be read as an image, or holds no pixel.
            Refusal: nothing says which of its values are black and white.
        """
        image = at_home(image)
        try:
            return torch.from_numpy(decode_image(image, self.size, self.resizing, self.range).copy())
        except DAMAGED as problem:
            name = image if isinstance(image, str | Path) else "this image"
            raise UserError(f"{name}: cannot be read as an image ({problem}).") from None

    def over(self, split: Split, on_error: str, memory_gb: float, watch: Watch, views: int = 0) -> Images:
        """A split's images in this form."""
        return Images(split, self, on_error, memory_gb, watch, views)


class Batch(NamedTuple):
    """Images with their targets: uint8, (B, 3, S, S), or clips, (B, T, 3, S, S).

    Where `taps` stand in for them, the images are empty: (B, 3, 0, 0), or (B, T, 3, 0, 0) with taps (B * T, …).
    """

    images: Tensor
    targets: Any
    taps: list[Tensor] | None = None


def ready(batch: Any, size: Any) -> Any:
    """The batch with its images changed as was drawn for them, where that is left to the device; any other as it is.

    Args:
        batch: of `Images`, where the model computes.
        size: of the model's input.
    """
    return Batch(applied(batch, size), batch.targets) if isinstance(batch, Drawn) else batch


class Images(Dataset):
    """A split as tensors: decoded once into memory while it fits, else from disk each time.

    Attributes:
        kept: pixels of a side as an image is decoded; larger than the input where an augmentation cuts from it.
        views: 0, or how many fixed augmented views stand for each image; training then draws among them.
        stored: once set, gives the taps of rows, and no image is decoded for training any more.
        mixing: how training images are mixed with others of their batch, if they are.
        skipped: names the images that were left out because they are damaged.
        scored_at_once: images a batch where a method looks at them before training; None is as many as in training.

    Raises:
        UserError: a damaged image, named, where `on_error` is `refuse`; else it is left out and named in `skipped`.
        Refusal: an image of which nothing says which values are black and white.
    """

    scored_at_once: ClassVar[int | None] = 32

    def __init__(
        self,
        split: Split,
        transform: Transform,
        on_error: str,
        memory_gb: float,
        watch: Watch,
        views: int = 0,
    ) -> None:
        self.kept = round(transform.size * MARGIN.get(transform.augment, 1.0))
        image_shape = (3, self.kept, self.kept)
        shape = image_shape if split.frames is None else (split.frames, *image_shape)
        self.transform, self.augment = transform, augmentation(transform)
        self.views = views if self.augment is not None else 0
        self._begin(split, shape, len(split) * math.prod(shape) <= memory_gb * 2**30, on_error, watch)

    def _begin(self, split: Split, shape: tuple[int, ...], fits: bool, on_error: str, watch: Watch) -> None:
        self.split, self.shape, self.fits = split, shape, fits
        self.kind = "image" if split.frames is None else "clip"
        self.skipped: list[str] = []
        self.pixels: Tensor | None = None
        self.stored: Callable[[Tensor], list[Tensor]] | None = None
        self.mixing: Mixing | None = None
        if on_error == "skip":
            self._decode_all(on_error, watch, self.fits)

    @property
    def groups(self) -> Tensor | None:
        """The group of each image, (N,), where batches should be of one group."""
        return None

    def sizes_on_canvas(self, targets: Any) -> Sequence[tuple[int, int]] | None:
        """Height and width of each image of a batch with these targets, where the rest is padding; None without any."""
        return None

    def load(self, watch: Watch = lambda done, of: None) -> None:
        """Decodes into memory, if the images fit and are not there yet."""
        if self.fits and self.pixels is None:
            self._decode_all("refuse", watch, True)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def rows(self) -> int:
        """How many different pictures there are: images times views."""
        return len(self) * max(self.views, 1)

    def __getitems__(self, batch: Indices) -> Any:
        """A whole `Batch` at once, augmented where it has a seed; `Drawn` where that is left to the device."""
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
        if batch.seed is None or self.views:
            return Batch(self.pictures(indices), targets)
        # Seeded by the batch's place in the run, so that a resumed run sees the same pixels.
        if self.mixing is not None:
            return self._mixed(self.mixing, batch.whole)
        if self.augment is not None and self._seeded_one_by_one:
            return Batch(self._drawn_in(batch.whole, batch.whole.places), targets)
        images = self.pictures(indices)
        if self.transform.augment_on == "device":
            return Drawn(images, targets, draw(self.transform, images, batch.seed))
        return Batch(images if self.augment is None else self._augmented(images, batch.seed), targets)

    @property
    def _seeded_one_by_one(self) -> bool:
        """Whether an image is changed by its place in the whole batch, so that several processes see what one would.

        Where images are only flipped or cut, each process has draws of its own, as in the first version.
        """
        changes = self.transform
        return self.mixing is not None or bool(changes.jitter or changes.erase) or changes.augment == "randaugment"

    def _drawn_in(self, whole: Whole, places: Tensor) -> Tensor:
        """The images at these places of a whole batch, each augmented by its place."""
        images = self.pictures(whole.indices[places])
        if self.augment is None:
            return images
        drawn = zip(images, places.tolist(), strict=True)
        return torch.cat([self._augmented(image[None], mix(whole.seed, place)) for image, place in drawn])

    def _mixed(self, mixing: Mixing, whole: Whole) -> Batch:
        before = (whole.places - 1) % len(whole.indices)
        places, at = torch.cat([whole.places, before]).unique(return_inverse=True)
        images = self._drawn_in(whole, places)
        targets = torch.from_numpy(self.split.labels)[whole.indices[places]]
        ours, theirs = at.tensor_split(2)
        return Batch(*mixing(images[ours], images[theirs], targets[ours], targets[theirs], mix(whole.seed, 3)))

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
        return self._as_views(images, rows)

    def pictures_in_turn(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `pictures`, of chunks of ascending rows: the next ones are decoded while the caller works with one.

        Where all images fit into memory they are kept there, as `load` keeps them, once the last chunk is decoded.
        """
        if self.pixels is not None:
            yield from map(self.pictures, chunks)
            return
        of_chunks = [(rows // max(self.views, 1)).unique(return_inverse=True) for rows in chunks]
        pixels = torch.empty((len(self), *self.shape), dtype=torch.uint8) if self.fits else None
        decoded = decoded_ahead([indices.tolist() for indices, _ in of_chunks], self._decode)
        with contextlib.closing(decoded):
            for rows, (indices, at), images in zip(chunks, of_chunks, decoded, strict=True):
                if pixels is not None:
                    pixels[indices] = images
                yield self._as_views(images[at] if self.views else images, rows)
        if pixels is not None and torch.cat([indices for indices, _ in of_chunks]).unique().numel() == len(self):
            self.pixels = pixels

    def _as_views(self, images: Tensor, rows: Tensor) -> Tensor:
        if not self.views:
            return images
        views = [self._augmented(i[None], mix(int(row), 2)) for i, row in zip(images, rows, strict=True)]
        return torch.cat(views) if views else images

    def _augmented(self, images: Tensor, seed: int) -> Tensor:
        assert self.augment is not None
        with random_numbers_kept():
            torch.manual_seed(seed)
            return torch.stack([self.augment(i) for i in images])  # one draw for all frames of a clip

    def _decode(self, index: int) -> np.ndarray:
        source, resizing, values = self.split.images[index], self.transform.resizing, self.transform.range
        try:
            if self.split.frames is None:
                return decode_image(source, self.kept, resizing, values)
            return decode_clip(source, self.split.frames, self.kept, resizing, values)
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

    def _decode_all(self, on_error: str, watch: Watch, keep: bool) -> None:
        pixels = torch.empty((len(self.split), *self.shape), dtype=torch.uint8) if keep else None

        def decode_into_memory(index: int) -> bool:
            try:
                image = self._decode(index)
            except Refusal:  # of a whole image, which a setting would let in
                raise
            except UserError:
                if on_error == "refuse":
                    raise
                return False
            if pixels is not None:
                pixels[index] = torch.from_numpy(image.copy())
            return True

        def decode_several(indices: range) -> list[bool]:
            return [decode_into_memory(index) for index in indices]

        total = len(self.split)
        pieces = [range(start, min(start + _DECODED_AT_ONCE, total)) for start in range(0, total, _DECODED_AT_ONCE)]
        whole: list[int] = []
        with ThreadPoolExecutor() as pool:
            for indices, readable in zip(pieces, pool.map(decode_several, pieces), strict=True):
                watch(indices.stop, total)
                for index, fine in zip(indices, readable, strict=True):
                    if fine:
                        whole.append(index)
                    else:
                        self.skipped.append(self._where(index))
        if not whole:
            raise UserError(f"none of the {len(self.split)} {self.kind}s can be read, such as {self.skipped[0]}.")
        if self.skipped:
            self.split = self.split.take(whole)
            pixels = pixels[torch.tensor(whole)] if pixels is not None else None
        self.pixels = pixels
