"""What tasks with a linear head on pooled features have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.tasks.base import Extract, Task


class LinearTask(Task):
    """`head`: Linear(width, outputs), weights N(0, 0.02) cut at two sigma, bias 0."""

    trains_jointly: ClassVar[bool] = True
    keeps_views: ClassVar[bool] = True
    predicts_tensor: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.head = nn.Linear(backbone.facts.width, len(classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.head.bias)

    def features(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """Pooled features (B, width) of images (B, 3, H, W), or of clips (B, T, 3, H, W): the mean of their frames'."""
        features = backbone.pool(extract(images)[-1])
        return features.unflatten(0, images.shape[:2]).mean(1) if images.ndim == 5 else features

    def outputs(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """The head's outputs (B, outputs) for images (B, 3, H, W), or clips (B, T, 3, H, W)."""
        outputs: Tensor = self.head(self.features(extract, backbone, images))
        return outputs

    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """Predictions (B, outputs) for images (B, 3, H, W), or clips (B, T, 3, H, W)."""
        return self.answer(self.outputs(extract, backbone, images))
