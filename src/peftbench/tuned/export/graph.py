"""The one graph that ONNX and exported programs hold, and the check that a file computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.common.errors import UserError
from peftbench.data.images import Transform
from peftbench.data.media import IMAGES
from peftbench.tasks.base import Task
from peftbench.tuned.load import Tuned

PHOTOS = Path(__file__).parents[2] / "data" / "photos" / "test"
TOLERANCE = 1e-3
"""Of the largest logit: fp32 rounded in another order stays far below it, a wrong operator does not."""

TOLERANCE_RESIZED = 1e-2
"""As `TOLERANCE`, where the file resizes too: some pixels are another level of 255 than PIL's."""


class Graph(nn.Module):
    """Backbone, side path and head: images in [0, 1], float32 (B, 3, H, W), or clips (B, T, 3, S, S), to logits."""

    mean: Tensor
    std: Tensor
    task: Task

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        model = tuned.model
        self.backbone, self.side, self.task = model.backbone, model.side, model.task
        self.wanted = model.reads if model.side is None else model.kept
        self.merged = model.merged
        self.register_buffer("mean", model.mean / 255)
        self.register_buffer("std", model.std / 255)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes), or (B, classes, H, W), of images in [0, 1]."""
        taps = self.adapted(((images - self.mean) / self.std).flatten(0, -4))
        return self.task.predict(lambda _: taps, self.backbone, images)

    def adapted(self, images: Tensor) -> list[Tensor]:
        """The taps that the task reads, of normalised images (B, 3, H, W)."""
        taps = self.backbone.taps(images, self.wanted, stop=False)
        if self.side is not None:
            count = len(self.side.wanted)
            taps = self.merged(self.side(self.side.condense(taps[:count])), taps[count:])
        return taps


class Sample:
    """Photos that peftbench ships, and what the run's model, as it was tested, says of them.

    Attributes:
        images: uint8 (6, 3, S, S); clips are rows of photos, (6, T, 3, S, S).
        logits: (6, classes), or (6, classes, H, W).
        multiple: of which number the sides of a graph's images may be any multiple; 0 where they have one size.
        larger: images in another such size, with their logits; None where there is none.
        decoded: where the file resizes too, photos of several sizes as a decoder gives them, uint8 (B, h, w, 3), with
            the logits of what the run makes of them.
    """

    larger: tuple[Tensor, Tensor] | None = None
    decoded: Sequence[tuple[Tensor, Tensor]] = ()

    @torch.no_grad()
    def __init__(self, tuned: Tuned) -> None:
        files = sorted(p for p in PHOTOS.rglob("*") if p.suffix.lower() in IMAGES)
        shape = (6,) if tuned.run.frames is None else (6, tuned.run.frames)
        count = math.prod(shape)
        assert isinstance(tuned.transform, Transform)
        transform = replace(tuned.transform, range="auto")  # these photos are of 8 bits, whatever the run's images are
        pixels = [transform(files[i * len(files) // count]) for i in range(count)]
        self.images = torch.stack(pixels).unflatten(0, shape)
        self.logits = tuned(self.images)
        fixed = tuned.run.method.fixed_size
        self.multiple = 0 if fixed else tuned.model.task.open_sides(tuned.model.backbone)
        if self.multiple:
            height, width = (side + by * self.multiple for side, by in zip(self.images.shape[-2:], (2, 1), strict=True))
            larger = F.interpolate(self.images.float(), (height, width), mode="bilinear", antialias=True)
            images = larger.round().clamp(0, 255).to(torch.uint8)
            self.larger = images, tuned(images)

    @torch.no_grad()
    def difference(self, answer: Callable[[Tensor], Tensor], what: str, any_size: bool = False) -> float:
        """How far the logits of `answer` are from the model's, relative to the largest logit.

        It is asked with images in float32 in [0, 1], in batches of one, two and three; in two sizes, where it serves
        `any_size`. Where it resizes too, it is asked with decoded photos. `what` names it in messages.

        Raises:
            UserError: it is more than rounding.
        """
        if self.decoded:
            return self._difference_of_decoded(answer, what)
        off = self.distance(answer, any_size)
        if not off <= TOLERANCE:
            raise UserError(
                f"{what}: computes other logits than the model ({off:.2g} of the largest one away, at most "
                f"{TOLERANCE:g} is rounding), so nothing is written."
            )
        return off

    @torch.no_grad()
    def distance(self, answer: Callable[[Tensor], Tensor], any_size: bool = False) -> float:
        """As `difference`, however large it is; infinite where the answers have another shape."""
        off = _difference(answer, self.images, self.logits)
        if any_size and self.larger is not None:
            off = max(off, _difference(answer, *self.larger))
        return off

    def _difference_of_decoded(self, answer: Callable[[Tensor], Tensor], what: str) -> float:
        worst = 0.0
        for photos, expected in self.decoded:
            logits = answer(photos)
            same = logits.shape == expected.shape
            off = (logits - expected).abs().max().item() / _scale(self.logits) if same else math.inf
            if not off <= TOLERANCE_RESIZED:
                raise UserError(
                    f"{what} inside=all: computes other logits than the model for an image of {photos.shape[2]} x "
                    f"{photos.shape[1]} pixels ({off:.2g} of the largest one away, at most {TOLERANCE_RESIZED:g} is "
                    f"rounding), so nothing is written."
                )
            worst = max(worst, off)
        return worst


def _scale(logits: Tensor) -> float:
    return max(1e-3, logits.abs().max().item())


def _difference(answer: Callable[[Tensor], Tensor], images: Tensor, expected: Tensor) -> float:
    logits = [answer(part.float() / 255) for part in images.split([1, 2, 3])]
    if [len(part) for part in logits] != [1, 2, 3] or logits[0].shape[1:] != expected.shape[1:]:
        return math.inf
    return (torch.cat(logits) - expected).abs().max().item() / _scale(expected)
