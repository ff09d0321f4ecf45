"""The task contract: head, loss and metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from peftbench.backbones import Backbone, Facts

Extract = Callable[[Tensor], list[Tensor]]
"""From images to the taps that the task reads, live or cached: `Model.extract`."""
Metrics = Metric | MetricCollection
"""What `update(predictions, targets)` is called on; `compute()` gives a scalar tensor by name."""


class Task(nn.Module):
    """What is predicted from taps. Its parameters are counted as the head's, apart from the method's."""

    uses_tail: ClassVar[bool] = True
    """Whether it pools through the backbone's tail; a task that reads maps alone leaves the tail frozen."""

    moves_statistics: ClassVar[bool] = True
    """Whether the statistics of batch norms that train move; batches of detection are too small for it."""

    classes: tuple[str, ...]
    start: Mapping[str, str] = {}
    """Hashes of what it starts from, by name, where that was read from a file."""

    def reads(self, facts: Facts) -> tuple[int, ...]:
        """The taps that it reads, as indices into `facts.taps`."""
        return (len(facts.taps) - 1,)

    @abstractmethod
    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> Any:
        """Predictions for images."""

    def evaluate(self, extract: Extract, backbone: Backbone, batch: Any) -> Any:
        """Predictions for a batch, in the form that the metrics compare with its targets."""
        return self.predict(extract, backbone, batch[0])

    @abstractmethod
    def loss(self, extract: Extract, backbone: Backbone, batch: Any) -> Tensor:
        """The training loss of a batch, a scalar."""

    @abstractmethod
    def metrics(self) -> Metrics:
        """Metrics whose `update(predictions, targets)` is called on every batch of an evaluation."""

    @abstractmethod
    def targets(self, batch: Any) -> Any:
        """What the metrics compare predictions with."""

    def evaluation_loss(self, predictions: Any, batch: Any) -> Tensor | None:
        """The loss that evaluations report, summed over the batch; None where they report none."""
        return None

    @abstractmethod
    def size(self, batch: Any) -> int:
        """The number of images in a batch."""

    def rows(self, metrics: Metrics) -> list[dict[str, Any]] | None:
        """All that was predicted, of all processes, to be written beside the record; None where nothing is."""
        return None

    def parts(self) -> Mapping[str, int]:
        """Its trainable parameters by part, where it has several."""
        return {}
