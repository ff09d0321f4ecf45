"""Images with their objects as batches for detectors: resized with their aspect, padded, boxes moved along."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from peftbench.common.errors import UserError
from peftbench.common.seeds import random_numbers_kept
from peftbench.data.augmentation import colour_jitter
from peftbench.data.base import Split
from peftbench.data.boxes import BoxSplit, Objects
from peftbench.data.decoding import FILTERS, Picture, at_home, open_rgb
from peftbench.data.images import Batch, Images, Indices
from peftbench.data.media import DAMAGED
from peftbench.data.pixel_values import Range
from peftbench.tasks.detection.masks import masks_of, resized_masks, run_lengths_of

DIVISOR = 32
"""Images of different sizes are padded to multiples of it, or of a coarser stride of the backbone."""
SCENES = ("none", "flip", "multiscale", "lsj", "ssd")
"""What `data.augment` may be for detection."""
LEAST = 1.0
"""Pixels of the input below which a side of a training box is too small to learn from."""
_JITTER = (0.1, 2.0)  # large-scale jitter: Ghiasi et al., 2021, https://arxiv.org/abs/2012.07177
_SHRUNK = (0.75, 1.0)


@dataclass(frozen=True)
class SceneTransform:
    """From an image to a detector's input: resized with its aspect, its content at the top left, then normalised.

    With `size`, (height, width), it fills that as far as its aspect lets it. Without, its shorter side is `min_size`
    pixels (the last of several), its longer one at most `max_size`, and a batch is as large as its largest image,
    rounded up to a multiple of `divisor`. What is padded has the colour of the mean, so it is about 0 to the model.
    """

    size: tuple[int, int] | None
    min_size: tuple[int, ...]
    max_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "none"
    divisor: int = 32
    range: Range = "auto"
    jitter: float = 0.0

    def plain(self) -> SceneTransform:
        """Without what is for training alone."""
        return replace(self, augment="none", jitter=0.0)

    @property
    def colour(self) -> Tensor:
        """uint8 (3,): the colour of what is padded."""
        return torch.tensor([min(max(round(255 * value), 0), 255) for value in self.mean], dtype=torch.uint8)

    def fit(self, original: tuple[int, int], shorter: int | None = None) -> tuple[int, int]:
        """(height, width) to which an image of that height and width is resized."""
        height, width = original
        if self.size is not None:
            scale = min(self.size[0] / height, self.size[1] / width)
        else:
            scale = min((shorter or self.min_size[-1]) / min(original), self.max_size / max(original))
        return max(round(height * scale), 1), max(round(width * scale), 1)

    def padded(self, images: Sequence[Tensor]) -> Tensor:
        """uint8 (B, 3, H, W): images (3, h, w) at the top left of one size."""
        height, width = self.size or (
            math.ceil(max(i.shape[axis] for i in images) / self.divisor) * self.divisor for axis in (1, 2)
        )
        batch = self.colour[None, :, None, None].repeat(len(images), 1, height, width)
        for canvas, image in zip(batch, images, strict=True):
            canvas[:, : image.shape[1], : image.shape[2]] = image
        return batch

    def resized(self, image: Image.Image, to: tuple[int, int]) -> Tensor:
        """uint8 (3, h, w) of an image in RGB."""
        resized = image.resize(to[::-1], FILTERS[self.interpolation])
        return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())

    def __call__(self, image: Picture) -> tuple[Tensor, dict[str, Any]]:
        """uint8 (3, H, W) of a file, a PIL image, or pixels (h, w) or (h, w, 3), padded.

        With it come its `size`, `scale` and `original`.

        Raises:
            UserError: it cannot be read as an image.
        """
        image = at_home(image)
        try:
            whole = open_rgb(image, self.range)
            original = (whole.height, whole.width)
            small = self.resized(whole, self.fit(original))
        except DAMAGED as problem:
            name = image if isinstance(image, str | Path) else "this image"
            raise UserError(f"{name}: cannot be read as an image ({problem}).") from None
        size = (small.shape[1], small.shape[2])
        return self.padded([small])[0], _place(size, _scale(original, size), original)

    def over(
        self, split: Split, on_error: str, memory_gb: float, watch: Callable[[int, int], None], views: int = 0
    ) -> Scenes:
        """A split's images with their objects in this form. Raises UserError."""
        if views:
            raise UserError(f"taps.views={views}: fixed views are not offered for detection; leave taps.views out.")
        return Scenes(split, self, on_error, memory_gb, watch)


class Scene(NamedTuple):
    """uint8 (3, h, w), its boxes in its pixels, their labels, (x, y) of its pixels per original pixel, and masks.

    `masks`: uint8 (n, h, w), 1 where an object is; None where boxes alone are learned.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    scale: tuple[float, float]
    masks: Tensor | None = None


class Scenes(Images):
    """A split of images with objects, as batches of images and one dictionary each; `kept` is the input's size.

    - `boxes` float32 (n, 4), x1 y1 x2 y2 in pixels of the resized image, and `labels` int64 (n,): what is trained on,
      without crowds and without what is less than a pixel wide or high;
    - `size`, (height, width) of the image on its canvas, the rest is padding; `scale`, (x, y) pixels of the input per
      original pixel; `original`, (height, width); and `image_id`: plain numbers, which stay on the host, since a GPU
      that is asked for them must first finish all that it has to do;
    - outside of training, in original pixels: `true_boxes`, `true_labels`, `true_crowd` int64, `true_area`;
    - of a set with masks `masks` uint8 (n, h, w), of what is trained on, drawn anew for each batch; outside of training
      `true_segments`, COCO's compressed run lengths on the original image, in their place.

    Images of a fixed size are decoded once into memory while they fit; of variable size, and where `lsj` cuts from
    the whole original, each time.

    Raises:
        UserError: a damaged image, or one that is not of the size that its annotations say, named, where `on_error`
            is `refuse`; else it is left out and named in `skipped`.
    """

    scored_at_once = None
    transform: SceneTransform  # type: ignore[assignment]

    def __init__(
        self,
        split: Split,
        transform: SceneTransform,
        on_error: str,
        memory_gb: float,
        watch: Callable[[int, int], None],
    ) -> None:
        if transform.augment not in SCENES:
            raise UserError(
                f"data.augment={transform.augment}: is for classification; for detection give {', '.join(SCENES)}."
            )
        assert isinstance(split, BoxSplit)
        self.transform, self.views = transform, 0
        self.kept = transform.size  # type: ignore[assignment]
        self.jitter = colour_jitter(transform.jitter)
        changed = transform.augment != "none" or self.jitter
        self.augment = self._drawn if changed else None  # type: ignore[assignment]
        shape = (3, *(transform.size or (0, 0)))
        holds = transform.size is not None and transform.augment != "lsj"
        self._begin(split, shape, holds and len(split) * math.prod(shape) <= memory_gb * 2**30, on_error, watch)

    @property
    def groups(self) -> Tensor | None:
        """Wide images and tall ones, where sizes vary: batches of one kind are padded less."""
        if self.transform.size is not None:
            return None
        return torch.tensor([int(o.size[1] >= o.size[0]) for o in self.split.labels])

    def sizes_on_canvas(self, targets: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
        return [tuple(target["size"]) for target in targets]

    def __getitems__(self, batch: Indices) -> Batch:
        """A whole batch at once, augmented where it has a seed."""
        training = batch.seed is not None
        if self.augment is not None and training and self.stored is None:
            # Seeded by the batch's place in the run, so that a resumed run sees the same pixels.
            with random_numbers_kept():
                torch.manual_seed(batch.seed)
                scenes = [self._drawn(index) for index in batch]
            targets = [self._target(i, s, training) for i, s in zip(batch, scenes, strict=True)]
            return Batch(self.transform.padded([s.image for s in scenes]), targets)
        targets = [self._target(i, self._still(i, masks=training), training) for i in batch]
        indices = torch.as_tensor(batch, dtype=torch.long)
        if self.stored is not None:
            return Batch(torch.empty((len(batch), 3, 0, 0), dtype=torch.uint8), targets, self.stored(indices))
        return Batch(self.pictures(indices), targets)

    def pictures(self, rows: Tensor) -> Tensor:
        """uint8 (B, 3, H, W): the images as they are, padded."""
        self.load()
        if self.pixels is not None:
            return self.pixels[rows]
        if not len(rows):
            return torch.empty((0, *self.shape), dtype=torch.uint8)
        return self.transform.padded([self._picture(i, self._fit(i)) for i in rows.tolist()])

    def _objects(self, index: int) -> Objects:
        return self.split.labels[index]

    def _fit(self, index: int) -> tuple[int, int]:
        return self.transform.fit(self._objects(index).size)

    def _decode(self, index: int) -> np.ndarray:
        return self.transform.padded([self._picture(index, self._fit(index))])[0].numpy()

    def _picture(self, index: int, size: tuple[int, int]) -> Tensor:
        """An image from its file, in this size."""
        path = self.split.images[index]
        expected = self._objects(index).size
        try:
            image = open_rgb(path, self.transform.range, annotated=expected)
            if (image.height, image.width) != expected:
                raise UserError(
                    f"{path}: is {image.width} x {image.height} pixels (width x height), and its annotations say "
                    f"{expected[1]} x {expected[0]}; expected the image that was annotated."
                )
            return self.transform.resized(image, size)
        except DAMAGED as problem:
            raise self._damaged(index, problem) from None

    def _still(self, index: int, size: tuple[int, int] | None = None, masks: bool = True) -> Scene:
        """The scene as it is, in its usual size or another; without pixels; with masks where these are asked for."""
        objects = self._objects(index)
        size = size or self._fit(index)
        scale = _scale(objects.size, size)
        alone = ~objects.crowd
        boxes = torch.from_numpy(objects.boxes[alone]) * torch.tensor([*scale, *scale])
        labels = torch.from_numpy(objects.labels[alone])
        drawn = masks_of(objects, size) if masks and objects.segments is not None else None
        return _sane(Scene(torch.empty((3, *size), device="meta"), boxes, labels, scale, drawn))

    def _drawn(self, index: int) -> Scene:
        """The scene as the augmentation draws it, from torch's own random numbers."""
        kind, transform = self.transform.augment, self.transform
        size = self._fit(index)
        if kind == "multiscale" and transform.size is None:
            shorter = transform.min_size[int(torch.randint(len(transform.min_size), ()))]
            size = transform.fit(self._objects(index).size, shorter)
        if kind == "lsj":
            factor = _uniform(_JITTER)
            size = max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)
        scene = self._still(index, size)._replace(image=self._base(index, size))
        if kind == "multiscale" and transform.size is not None:
            factor = _uniform(_SHRUNK)
            scene = self._to(scene, (max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)))
        if kind == "lsj":
            scene = _cropped(scene, transform.size or self._fit(index))
        if kind == "ssd":
            scene = _distorted(scene, transform.colour)
            scene = self._to(scene, transform.fit((scene.image.shape[1], scene.image.shape[2])))
        for change in self.jitter:
            scene = scene._replace(image=change(scene.image))
        return _sane(_flipped(scene) if kind != "none" and torch.rand(()) < 0.5 else scene)

    def _base(self, index: int, size: tuple[int, int]) -> Tensor:
        """uint8 (3, h, w), from memory where it is there."""
        self.load()
        if self.pixels is not None:
            return self.pixels[index][:, : size[0], : size[1]]
        return self._picture(index, size)

    def _to(self, scene: Scene, size: tuple[int, int]) -> Scene:
        """Resized."""
        ratio = _scale((scene.image.shape[1], scene.image.shape[2]), size)
        # Of tensors, torchvision cannot resize by Lanczos.
        how = v2.InterpolationMode(self.transform.interpolation.replace("lanczos", "bicubic"))
        image = functional.resize(scene.image, list(size), interpolation=how, antialias=True)
        scale = (scene.scale[0] * ratio[0], scene.scale[1] * ratio[1])
        masks = None if scene.masks is None else resized_masks(scene.masks, size)
        return scene._replace(image=image, boxes=scene.boxes * torch.tensor([*ratio, *ratio]), scale=scale, masks=masks)

    def _target(self, index: int, scene: Scene, training: bool) -> dict[str, Any]:
        objects = self._objects(index)
        size = (scene.image.shape[1], scene.image.shape[2])
        target: dict[str, Any] = {"boxes": scene.boxes, "labels": scene.labels, "image_id": int(objects.id)}
        target |= _place(size, scene.scale, objects.size)
        if scene.masks is not None:
            target["masks"] = scene.masks
        if not training:
            if objects.segments is not None:
                target["true_segments"] = run_lengths_of(objects)
            target["true_boxes"] = torch.tensor(objects.boxes)  # copies: whoever changes a batch changes no data
            target["true_labels"] = torch.tensor(objects.labels)
            target["true_crowd"] = torch.tensor(objects.crowd, dtype=torch.int64)
            target["true_area"] = torch.tensor(objects.area)
        return target


def rounded_up(pixels: int) -> int:
    """To a multiple of `DIVISOR`."""
    return -(-pixels // DIVISOR) * DIVISOR


def _place(size: tuple[int, int], scale: tuple[float, float], original: tuple[int, int]) -> dict[str, Any]:
    return {"size": size, "scale": scale, "original": original}


def _scale(original: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """(x, y): pixels of the second size per pixel of the first."""
    return size[1] / original[1], size[0] / original[0]


def _uniform(limits: tuple[float, float]) -> float:
    return limits[0] + (limits[1] - limits[0]) * float(torch.rand(()))


def _sane(scene: Scene) -> Scene:
    """Boxes within the image, without those too small to learn from, or without a pixel of their mask."""
    height, width = scene.image.shape[1:]
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = scene.boxes.clamp(min=0).minimum(limits)
    large = (boxes[:, 2:] - boxes[:, :2] >= LEAST).all(dim=1)
    if scene.masks is None:
        return scene._replace(boxes=boxes[large], labels=scene.labels[large])
    large &= scene.masks.flatten(1).any(dim=1).bool()
    return scene._replace(boxes=boxes[large], labels=scene.labels[large], masks=scene.masks[large])


def _flipped(scene: Scene) -> Scene:
    x1, y1, x2, y2 = scene.boxes.unbind(1)
    width = scene.image.shape[2]
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    masks = None if scene.masks is None else scene.masks.flip(2)
    return scene._replace(image=scene.image.flip(2), boxes=boxes, masks=masks)


def _cropped(scene: Scene, limits: tuple[int, int]) -> Scene:
    """A random part of at most this height and width."""
    height, width = scene.image.shape[1:]
    h, w = min(height, limits[0]), min(width, limits[1])
    top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
    image = scene.image[:, top : top + h, left : left + w]
    masks = None if scene.masks is None else scene.masks[:, top : top + h, left : left + w]
    return scene._replace(image=image, boxes=scene.boxes - torch.tensor([left, top, left, top]), masks=masks)


def _distorted(scene: Scene, colour: Tensor) -> Scene:
    """SSD's: colours, zooming out, and a crop that overlaps some box (Liu et al., 2016, arXiv:1512.02325, 2.2)."""
    fill: Any = {tv_tensors.Image: colour.tolist(), "others": 0}
    steps: list[Any] = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=fill)]
    if len(scene.boxes):
        steps.append(v2.RandomIoUCrop())
    size = (scene.image.shape[1], scene.image.shape[2])
    boxes = tv_tensors.BoundingBoxes(scene.boxes, format="XYXY", canvas_size=size)
    given = {"image": tv_tensors.Image(scene.image), "boxes": boxes}
    if scene.masks is not None:
        given["masks"] = tv_tensors.Mask(scene.masks)
    distorted = v2.Compose(steps)(given)
    image, boxes = distorted["image"].as_subclass(Tensor), distorted["boxes"].as_subclass(Tensor)
    masks = None if scene.masks is None else distorted["masks"].as_subclass(Tensor)
    return _sane(scene._replace(image=image, boxes=boxes, masks=masks))
