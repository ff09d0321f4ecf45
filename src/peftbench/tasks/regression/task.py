"""Regression of one or several numbers: a linear head on pooled features, R², mean absolute error and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.data.images import Preparation
from peftbench.data.targets import refuse_constant
from peftbench.tasks.base import Extract
from peftbench.tasks.evaluator import Evaluator
from peftbench.tasks.linear_task import LinearTask
from peftbench.tasks.predictor import Predictor
from peftbench.tasks.regression import schema
from peftbench.tasks.regression.evaluator import NumberEvaluator
from peftbench.tasks.regression.figures import RegressionFigures
from peftbench.tasks.regression.predictor import NumberPredictor


class Regression(LinearTask):
    """The head gives standardised numbers: `mean` and `deviation` (K,) are those of the training targets.

    They are kept with the head, and predictions are in the units of the targets.
    """

    solved_as: ClassVar[str] = "numbers"
    predictor: ClassVar[type[Predictor]] = NumberPredictor
    evaluator: ClassVar[type[Evaluator] | None] = NumberEvaluator

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: Backbone, classes: Sequence[str], loss: str = "mse", huber_delta: float = 1.0) -> None:
        super().__init__(backbone, classes)
        self.form, self.huber_delta = loss, huber_delta
        self.register_buffer("mean", torch.zeros(len(classes)))
        self.register_buffer("deviation", torch.ones(len(classes)))

    @classmethod
    def build(
        cls, section: schema.Regression, backbone: Backbone, classes: Sequence[str], categories: Sequence[int] = ()
    ) -> Regression:
        return cls(backbone, classes, section.loss, section.huber_delta)

    @classmethod
    def look_at(
        cls, config: Config, transform: Preparation, roles: Sequence[Split | None], classes: Sequence[str]
    ) -> list[str]:
        """Nothing to be known. Raises UserError where all targets of a split are the same."""
        for words, split in zip(("training", "validation", "test"), roles, strict=True):
            if split is not None and not config.trainer.trial:
                refuse_constant(split.labels, classes, f"data={config.data.name}: ", f"all {len(split)} {words} images")
        return []

    def learn_targets(self, targets: np.ndarray) -> None:
        """Takes the mean and the deviation of the training targets (N, K)."""
        values = targets.astype(np.float64)
        deviation = values.std(0)
        self.mean.copy_(torch.from_numpy(values.mean(0)))
        self.deviation.copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1)))

    def answer(self, outputs: Tensor) -> Tensor:
        """Numbers (B, K), in the units of the targets."""
        return outputs.float() * self.deviation + self.mean

    def wanted(self, targets: Tensor) -> Tensor:
        """The standardised numbers, (B, K)."""
        return (targets.double() - self.mean.cpu().double()) / self.deviation.cpu().double()

    def linear_head(self) -> dict[str, Tensor]:
        """The head with the units of the targets in its weights."""
        weight = self.head.weight * self.deviation[:, None]
        return {"weight": weight.detach(), "bias": (self.head.bias * self.deviation + self.mean).detach()}

    def loss(self, extract: Extract, backbone: Backbone, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean squared error, or Huber's loss, of standardised targets, over images and numbers; a scalar."""
        images, targets = batch[:2]
        return self._errors(self.outputs(extract, backbone, images), targets).mean()

    def _errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each number of each image, (B, K)."""
        wanted = (targets - self.mean) / self.deviation
        if self.form == "huber":
            return F.huber_loss(outputs.float(), wanted, reduction="none", delta=self.huber_delta)
        return F.mse_loss(outputs.float(), wanted, reduction="none")

    def metrics(self) -> RegressionFigures:
        """What `update(predictions, targets)` measures: R², mean absolute error, Spearman's correlation."""
        return RegressionFigures(len(self.classes))

    def evaluation_loss(self, predictions: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The training loss, of each image the mean over its numbers, summed over the batch."""
        outputs = (predictions.float() - self.mean) / self.deviation
        return self._errors(outputs, batch[1]).mean(1).sum()

    def blank_targets(self, images: int) -> Tensor:
        """Targets (B, K), all of them 0."""
        return torch.zeros(images, len(self.classes))


TASK = Regression
