"""Backbone, side net and task as one plain torch module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from peftbench.backbones import Backbone
from peftbench.backbones.prefix import Prefix, find_prefix
from peftbench.common.errors import UserError
from peftbench.common.machine import has_bf16
from peftbench.methods.base import Side
from peftbench.models.one_value import variance_needed
from peftbench.tasks.base import Task

PADDED_TO = 8
"""Some kernels round differently for odd batch sizes. In batches of a multiple of 8 they do not."""


class Model(nn.Module):
    """What is trained and what predicts.

    Images are uint8 (B, 3, H, W) and are normalised here, on the device; floating images count as normalised.
    Clips are (B, T, 3, H, W): the backbone sees their frames, and every tap has B * T rows, clip after clip.

    Args:
        backbone: the backbone, which the method adapts in place.
        task: head, loss and metrics.
        mean, std: the normalisation, in units of the range 0 to 1.

    Attributes:
        side: the side net, or None under a method that changes the backbone itself.
        multiple: `frozen` pads its batches to a multiple of this; see `padded_batches`.
        reads: the taps that the task reads, as indices into `facts.taps`.
        passed: those of them that a side net leaves as they are.
        prefix: of a backbone that is changed in place, what is computed of its frozen blocks, without a gradient, and
            may be kept; None where it is one pass from image to tap (`start_behind_prefix`).
        channels_last: whether images go through the backbone in this layout; its weights keep theirs.
        anchors: what can be moved, as it was before the model took over what another run learned; None where methods
            that stay near a start stay near that of this run.
        flips: whether predictions are the mean over an image and its mirror image, outside of training.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.backbone, self.task = backbone, task
        self.side: Side | None = None
        self.multiple = 1
        self.channels_last = False
        self.flips = False
        self.reads = task.reads(backbone.facts)
        self.passed: tuple[int, ...] = ()
        self.prefix: Prefix | None = None
        self.anchors: dict[str, Tensor] | None = None
        self.register_buffer("mean", torch.tensor(mean).mul(255).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).mul(255).view(3, 1, 1), persistent=False)

    def adapted(self, side: Side | None) -> None:
        """Takes the side net of the method that has adapted the backbone, and freezes what the task leaves unused."""
        self.side, self.prefix = side, None
        if side is not None and side.width is not None:
            self.task.widen(side.width)
        self.reads = self.task.reads(self.backbone.facts)
        if side is not None:
            side.every = not self.task.uses_tail
            self.passed = tuple(i for i in self.reads if i not in self._side_indices()) if side.every else ()
        if not self.task.uses_tail:
            for parameter in self.backbone.tail_parameters():
                parameter.requires_grad = False

    def start_behind_prefix(self, everything: bool) -> str:
        """Has the blocks before the first layer that trains computed apart, so that what they give can be kept.

        Values and gradients stay what they are in one pass: that is tried on noise.

        Args:
            everything: whether what the method added reads all of their taps, or the last alone is gone on from.

        Returns:
            why there are none, or the empty string.
        """
        modes = {module: module.training for module in self.modules()}
        self.train()
        found = find_prefix(self.backbone, self.reads, everything)
        for module, mode in modes.items():
            module.training = mode
        self.prefix = None if isinstance(found, str) else found
        return found if isinstance(found, str) else ""

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 images on the scale that the backbone was trained with; floating ones unchanged."""
        if images.is_floating_point():
            return images
        return images.to(self.mean.dtype).sub_(self.mean).div_(self.std)

    def frames(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), or the frames of clips, (B * T, 3, H, W).

        Raises:
            UserError: they are of another shape.
        """
        if images.ndim not in (4, 5) or images.shape[-3] != 3:
            raise UserError(
                f"images: have the shape {tuple(images.shape)}; expected (B, 3, H, W), or clips (B, T, 3, H, W)."
            )
        frames = self.normalize(images).flatten(0, -4)
        return frames.contiguous(memory_format=torch.channels_last) if self.channels_last else frames

    def extract(self, images: Tensor, cached: list[Tensor] | None = None) -> list[Tensor]:
        """Adapted taps: live ones of a weight method, or the side net's over frozen (or `cached`) ones.

        Behind a frozen prefix the live ones too go on from frozen (or `cached`) taps.
        """
        if self.prefix is not None:
            kept = self.frozen(images) if cached is None else cached
            return self.prefix.rest(self.backbone, kept, self.reads)
        if self.side is None:
            return self.backbone.taps(self.frames(images), self.reads)
        return apply_side_nets([self], self.frozen(images) if cached is None else cached)[0]

    @contextmanager
    def padded_batches(self) -> Iterator[None]:
        """Inside, an image's frozen taps have the same bits in every batch, which taps that are kept need."""
        self.multiple = PADDED_TO
        try:
            yield
        finally:
            self.multiple = 1

    @property
    def goes_on_from_taps(self) -> bool:
        """Whether frozen taps are all that it needs of an image: under a side method, and behind a frozen prefix."""
        return self.side is not None or self.prefix is not None

    @property
    def kept(self) -> tuple[int, ...]:
        """The taps that a side method needs: those that the side net reads, then those that are passed on."""
        assert self.side is not None
        return (*self.side.wanted, *self.passed)

    @property
    def places_of_kept_taps(self) -> list[tuple[str, tuple[int, ...]]]:
        """(module, shape for one image) of each tap that `frozen` computes, before it is condensed."""
        if self.prefix is not None:
            return self.prefix.places(self.backbone)
        taps = [self.backbone.facts.taps[i] for i in self.kept]
        return [(tap.module, tap.shape) for tap in taps]

    @property
    def condensed(self) -> str:
        """As `Side.condensed`: what is kept of the taps, the empty string where that is all."""
        return "" if self.side is None else self.side.condensed

    def condense(self, taps: list[Tensor]) -> list[Tensor]:
        """Of the taps of `places_of_kept_taps`, (B, …) each, what is stored of them."""
        if self.side is None:
            return taps
        count = len(self.side.wanted)
        return [*self.side.condense(taps[:count]), *taps[count:]]

    @torch.no_grad()
    def frozen(self, images: Tensor) -> list[Tensor]:
        """The taps that are gone on from, condensed and in the precision of the run: what a tap cache holds."""
        images = self.frames(images)
        count = len(images)
        lacking = -count % self.multiple
        if lacking:
            images = torch.cat([images, images[-1:].expand(lacking, *images.shape[1:])])
        device = images.device.type
        half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, half, enabled=half is not None and (device != "cpu" or has_bf16())):
            taps = self.condense(self._frozen_taps(images, None if self.condensed else half))
        taps = [t[:count] if half is None else t[:count].to(half) for t in taps]
        return [t.contiguous() for t in taps] if self.channels_last else taps  # as they are read from a cache

    def _frozen_taps(self, images: Tensor, half: torch.dtype | None) -> list[Tensor]:
        """In `half`, where it is given: each as soon as it is there, so that no two of them are in float32 at once."""
        if self.prefix is not None:
            return self.prefix.compute(self.backbone, images)
        if half is None:
            return self.backbone.taps(images, self.kept)
        taps: dict[int, Tensor] = {}
        self.backbone.taps(images, self.kept, lambda index, tap: taps.update({index: tap.to(half)}))
        return [taps[self.backbone.facts.index(i)] for i in self.kept]

    def forward(self, images: Tensor, cached: list[Tensor] | None = None) -> Any:
        """Predictions, in the task's own form: logits (B, classes) for classification."""
        if not self.flips or self.training or cached is not None:
            return self.task.predict(partial(self.extract, cached=cached), self.backbone, images)
        return self.task.of_scores(self._flipped_scores(images), images)

    def evaluate(self, batch: Any) -> Any:
        """Predictions for a batch, in the form that the task's metrics take."""
        cached = getattr(batch, "taps", None)
        if not self.flips or self.training or cached is not None:
            return self.task.evaluate(partial(self.extract, cached=cached), self.backbone, batch)
        return self.task.judged(self._flipped_scores(batch[0]), batch)

    def _flipped_scores(self, images: Tensor) -> Tensor:
        """The mean over images and their mirror images."""
        scores = self.task.scores(self.extract, self.backbone, images)
        others = self.task.scores(self.extract, self.backbone, mirrored(images))
        return (scores + self.task.unmirrored(others)) / 2

    def loss(self, batch: Any, cached: list[Tensor] | None = None) -> Tensor:
        """The training loss of one batch, a scalar: what training, and a method's scoring, differentiate.

        Taps come from `cached`, from the batch where it holds them, or else from its images.

        Raises:
            Refusal: a batch norm that learns sees one value a channel, which has no variance.
        """
        cached = getattr(batch, "taps", None) if cached is None else cached
        with variance_needed(self.backbone.facts, partial(self.task.size, batch)):
            return self.task.loss(partial(self.extract, cached=cached), self.backbone, batch)

    def train(self, mode: bool = True) -> Model:
        """The one place that decides modes.

        Batch-norm statistics move only where the whole layer trains (and is not marked `fixed_statistics`), and not at
        all where the task says so. Under a side method the backbone is in eval mode (no dropout, no drop-path). Every
        other module follows `mode`.
        """
        super().train(mode)
        if self.side is not None:
            self.backbone.eval()
            return self
        for module in self.backbone.modules():
            if isinstance(module, _NormBase) and (
                not self.task.moves_statistics
                or getattr(module, "fixed_statistics", False)
                or not all(p.requires_grad for p in module.parameters())
            ):
                module.eval()
        return self

    @property
    def moves_statistics(self) -> bool:
        """Whether training normalises by the statistics of the batch, and moves those that are kept."""
        modes = {module: module.training for module in self.modules()}
        self.train()
        moving = any(isinstance(m, _NormBase) and m.training and m.track_running_stats for m in self.modules())
        for module, mode in modes.items():
            module.training = mode
        return moving

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that trains, head included."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]

    def values(self) -> dict[str, Tensor]:
        """Copies of everything that training can move: what trains, and the statistics of norms."""
        moving = [*self.trainable(), *((n, b) for n, b in self.named_buffers() if b.is_floating_point())]
        return {n: t.detach().clone() for n, t in moving}

    def start(self) -> dict[str, str]:
        """The starting hashes of the backbone, and of a task that starts from a file, under this model's names."""
        backbone = {f"backbone.{name}": digest for name, digest in self.backbone.start.items()}
        return backbone | {f"task.{name}": digest for name, digest in self.task.start.items()}

    def _side_indices(self) -> tuple[int, ...]:
        """The taps that the side net gives, counted from the first."""
        assert self.side is not None
        return tuple(self.backbone.facts.index(i) for i in self.side.given)

    def merged(self, adapted: list[Tensor], passed: list[Tensor]) -> list[Tensor]:
        """The taps that the task reads, of those that the side net gives and those that are passed on."""
        if self.task.uses_tail:
            return adapted
        by_index = dict(zip((*self._side_indices(), *self.passed), (*adapted, *passed), strict=True))
        return [by_index[i] for i in self.reads]


def mirrored(images: Tensor) -> Tensor:
    """Images or clips with left and right swapped."""
    return images.flip(-1)


def apply_side_nets(models: Sequence[Model], taps: list[Tensor]) -> list[list[Tensor]]:
    """The taps that each model's task reads, from the frozen taps that `Model.kept` names.

    The models have side nets of one class. These compute in fp32 where the processor would only emulate bf16.
    """
    sides = [cast(Side, m.side) for m in models]
    device, count = taps[-1].device.type, len(taps) - len(models[0].passed)
    wanted, passed = taps[:count], taps[count:]
    if device != "cpu" or not torch.is_autocast_enabled(device) or has_bf16():
        adapted = type(sides[0]).forward_several(sides, wanted)
    else:
        with torch.autocast(device, enabled=False):
            adapted = type(sides[0]).forward_several(sides, wanted if sides[0].halves else [t.float() for t in wanted])
    return [m.merged(taps, passed) for m, taps in zip(models, adapted, strict=True)]
