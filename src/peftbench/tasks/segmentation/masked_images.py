"""Images with their masks as batches: resized to one size, and augmented together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.common.seeds import mix
from peftbench.data.augmentation import MARGIN, colour_jitter
from peftbench.data.base import Split
from peftbench.data.decoding import open_rgb
from peftbench.data.images import Batch, Images, Indices, Transform
from peftbench.data.masks import IGNORED, Mask
from peftbench.data.media import DAMAGED
from peftbench.tasks.segmentation.schema import pair

_SCALES = (0.5, 2.0)  # as in the recipes of DeepLab, UPerNet and SegFormer


@dataclass(frozen=True)
class MaskedTransform(Transform):
    """From an image to the input: resized to `size`, pixels of a side or (height, width), without regard to its shape.

    Predictions come back to the image's own size. With `window`, (height, width), the model sees parts of that size of
    it, and training images are such parts.
    """

    window: tuple[int, int] | None = None

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the input."""
        return pair(self.size)

    def plain(self) -> MaskedTransform:
        """Without what is for training alone."""
        return replace(self, augment="none", jitter=0.0)

    def over(self, split: Split, on_error: str, memory_gb: float, watch: Watch, views: int = 0) -> MaskedImages:
        """A split's images with their masks in this form. Raises UserError."""
        return MaskedImages(split, self, on_error, memory_gb, watch)


class MaskedImages(Images):
    """A split of images with masks, as batches of images and one dictionary each.

    - `mask` uint8 (H, W): the classes of the pixels of the input, `IGNORED` where there is none;
    - outside of training `true` uint8 (h, w): those of the image in its own size.

    Raises:
        UserError: a damaged image or mask, or a mask of another size than its image, named, where `on_error` is
            `refuse`; else it is left out and named in `skipped`.
    """

    scored_at_once = None
    transform: MaskedTransform

    def __init__(self, split: Split, transform: MaskedTransform, on_error: str, memory_gb: float, watch: Watch) -> None:
        margin = MARGIN.get(transform.augment, 1.0) if transform.window is None else 1.0
        height, width = (round(side * margin) for side in transform.canvas)
        self.decoded = (height, width)
        self.kept = transform.size if margin == 1 else self.decoded  # type: ignore[assignment]
        self.transform, self.views = transform, 0
        steps = _steps(transform)
        self.together = v2.Compose(steps) if steps else None
        self.augment = self._changed if steps else None  # type: ignore[assignment]
        self.masks: Tensor | None = None
        self.known = torch.zeros(0, dtype=torch.bool)
        self._begin(split, (3, height, width), len(split) * 4 * height * width <= memory_gb * 2**30, on_error, watch)
        if self.fits:
            self.masks = torch.empty((len(self.split), height, width), dtype=torch.uint8)
            self.known = torch.zeros(len(self.split), dtype=torch.bool)

    def __getitems__(self, batch: Indices) -> Batch:
        """A whole batch at once, augmented where it has a seed."""
        training = batch.seed is not None
        rows = torch.as_tensor(batch, dtype=torch.long)
        if self.stored is not None:
            nothing = torch.empty((len(batch), 3, 0, 0), dtype=torch.uint8)
            return Batch(nothing, [self._target(i, self._mask(i), training) for i in batch], self.stored(rows))
        images, masks = self.pictures(rows), [self._mask(i) for i in batch]
        if training and self.together is not None:
            # Seeded by an image's place in the run, so that a resumed run, and several processes, see the same pixels.
            drawn = zip(images, masks, batch.whole.places.tolist(), strict=True)
            pairs = [self._changed(image, mask, mix(batch.whole.seed, place)) for image, mask, place in drawn]
            images = torch.stack([image for image, _ in pairs]) if pairs else images
            masks = [mask for _, mask in pairs]
        return Batch(images, [self._target(i, m, training) for i, m in zip(batch, masks, strict=True)])

    def _changed(self, image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        assert self.together is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed, its_mask = self.together(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return changed.as_subclass(Tensor), its_mask.as_subclass(Tensor)

    def _target(self, index: int, mask: Tensor, training: bool) -> dict[str, Tensor]:
        target = {"mask": mask}
        if not training:
            target["true"] = torch.from_numpy(self._read(index))
        return target

    def _mask(self, index: int) -> Tensor:
        """uint8 (H, W): an image's mask in the size that it is decoded to."""
        if self.masks is None:
            return self._small(self._read(index))
        if not self.known[index]:
            self.masks[index] = self._small(self._read(index))
            self.known[index] = True
        return self.masks[index].clone()

    def _read(self, index: int) -> np.ndarray:
        mask: Mask = self.split.labels[index]
        return mask.read()

    def _small(self, mask: np.ndarray) -> Tensor:
        height, width = self.decoded
        if mask.shape == self.decoded:
            return torch.from_numpy(mask)
        return torch.from_numpy(np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)))

    def _decode(self, index: int) -> np.ndarray:
        """The image; its mask is read too, and must be of its size."""
        path, mask = self.split.images[index], self._read(index)
        size = (mask.shape[0], mask.shape[1])
        try:
            image = open_rgb(path, self.transform.range, annotated=size)
            if (image.height, image.width) != size:
                raise UserError(
                    f"{path}: is {image.width} x {image.height} pixels (width x height), and its mask "
                    f"{self.split.labels[index].name} {size[1]} x {size[0]}; expected a mask of the image's size."
                )
            height, width = self.decoded
            return np.asarray(self.transform.resizing(image, width, height)).transpose(2, 0, 1)
        except DAMAGED as problem:
            raise self._damaged(index, problem) from None


def _steps(transform: MaskedTransform) -> list[Any]:
    """torchvision's transforms of an image and its mask, as `augment` and `jitter` say."""
    whole, size = transform.canvas, list(transform.window or transform.canvas)
    fill: dict[Any, Any] = {tv_tensors.Image: list(map(float, transform.colour)), tv_tensors.Mask: IGNORED}
    flip = v2.RandomHorizontalFlip()
    steps: dict[str, list[Any]] = {
        "none": [],
        "flip": [flip],
        "crop": [v2.RandomCrop(size, pad_if_needed=True, fill=fill), flip],
        "rrc": [v2.RandomResizedCrop(size, scale=(0.3, 1.0), antialias=True), flip],
        "scale": [
            v2.ScaleJitter(whole, _SCALES),
            v2.RandomCrop(size, pad_if_needed=True, fill=fill),
            flip,
        ],
    }
    return [*steps[transform.augment], *colour_jitter(transform.jitter)]
