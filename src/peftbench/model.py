"""Backbone, side net and task as one plain torch module."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from peftbench.backbones import Backbone
from peftbench.methods.base import Side
from peftbench.tasks import Task


class Model(nn.Module):
    """What is trained and what predicts.

    Images are uint8 (B, 3, H, W) and are normalised here, on the device; floating images count as normalised.

    Args:
        backbone: adapted in place by the method.
        task: head, loss and metrics.
        mean, std: the normalisation, in units of the range 0 to 1.
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
        self.register_buffer("mean", torch.tensor(mean).mul(255).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).mul(255).view(3, 1, 1), persistent=False)

    def adapted(self, side: Side | None) -> None:
        """Called when the method has adapted the backbone: takes its side net, freezes what the task leaves unused."""
        self.side = side
        if side is not None:
            side.every = not self.task.uses_tail
        if not self.task.uses_tail:
            for parameter in self.backbone.tail_parameters():
                parameter.requires_grad = False

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 images on the scale that the backbone was trained with; floating ones unchanged."""
        if images.is_floating_point():
            return images
        return images.to(self.mean.dtype).sub_(self.mean).div_(self.std)

    def extract(self, images: Tensor, cached: list[Tensor] | None = None) -> list[Tensor]:
        """Adapted taps: live ones of a weight method, or the side net's over frozen (or `cached`) ones."""
        if self.side is None:
            return self.backbone.taps(self.normalize(images), self._wanted())
        return self.side(self.frozen(images) if cached is None else cached)

    @torch.no_grad()
    def frozen(self, images: Tensor) -> list[Tensor]:
        """The taps that the side net reads, condensed: what a tap cache holds of `images`."""
        assert self.side is not None
        return self.side.condense(self.backbone.taps(self.normalize(images), self.side.wanted))

    def forward(self, images: Tensor, cached: list[Tensor] | None = None) -> Any:
        """Predictions, in the task's own form: logits (B, classes) for classification."""
        return self.task.predict(partial(self.extract, cached=cached), self.backbone, images)

    def loss(self, batch: Any, cached: list[Tensor] | None = None) -> Tensor:
        """The training loss of one batch, a scalar: what training, and a method's scoring, differentiate."""
        return self.task.loss(partial(self.extract, cached=cached), self.backbone, batch)

    def train(self, mode: bool = True) -> Model:
        """The one place that decides modes.

        Batch-norm statistics move only where the whole layer trains; under a side method the backbone is in eval
        mode (no dropout, no drop-path); every other module follows `mode`.
        """
        super().train(mode)
        if self.side is not None:
            self.backbone.eval()
            return self
        for module in self.backbone.modules():
            if isinstance(module, _NormBase) and not all(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that trains, head included."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]

    def start(self) -> dict[str, str]:
        """The backbone's starting hashes under this model's names."""
        return {f"backbone.{name}": digest for name, digest in self.backbone.start.items()}

    def _wanted(self) -> tuple[int, ...]:
        return (-1,) if self.task.uses_tail else tuple(range(len(self.backbone.facts.taps)))
