"""What tasks with a linear head on pooled features have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.tasks.base import Extract, Task


class LinearTask(Task):
    """`head`: Linear(width, outputs), weights N(0, 0.02) cut at two sigma, bias 0."""

    takes_features: ClassVar[bool] = True
    trains_jointly: ClassVar[bool] = True
    keeps_views: ClassVar[bool] = True
    predicts_tensor: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self._build_head(backbone.facts.width)

    def widen(self, width: int) -> None:
        self._build_head(width)
        self.given_features = True

    def _build_head(self, width: int) -> None:
        self.head = nn.Linear(width, len(self.classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.head.bias)

    def outputs(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """The head's outputs (B, outputs) for images (B, 3, H, W), or clips (B, T, 3, H, W)."""
        outputs: Tensor = self.head(self.features(extract, backbone, images))
        return outputs

    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """Predictions (B, outputs) for images (B, 3, H, W), or clips (B, T, 3, H, W)."""
        return self.answer(self.outputs(extract, backbone, images))
