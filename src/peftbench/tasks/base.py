"""The task contract: head, loss and metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torchmetrics import MetricCollection

from peftbench.backbones import Backbone

Extract = Callable[[Tensor], list[Tensor]]
"""From images to taps, live or cached: `Model.extract`."""


class Task(nn.Module):
    """What is predicted from taps. Its parameters are counted as the head's, apart from the method's."""

    uses_tail: ClassVar[bool] = True
    """Whether it pools through the backbone's tail; a task that reads maps alone leaves the tail frozen."""

    classes: tuple[str, ...]

    @abstractmethod
    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> Any:
        """Predictions for images."""

    @abstractmethod
    def loss(self, extract: Extract, backbone: Backbone, batch: Any) -> Tensor:
        """The training loss of a batch, a scalar."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Metrics whose `update(predictions, targets)` is called on every batch of an evaluation."""

    @abstractmethod
    def targets(self, batch: Any) -> Any:
        """What the metrics compare predictions with."""

    @abstractmethod
    def evaluation_loss(self, predictions: Any, batch: Any) -> Tensor:
        """The loss that evaluations report, summed over the batch."""

    @abstractmethod
    def size(self, batch: Any) -> int:
        """The number of images in a batch."""
