"""Multi-label classification: a linear head, a binary cross-entropy for each label, mAP and F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.data.images import Preparation
from peftbench.tasks.base import Extract, Metrics
from peftbench.tasks.evaluator import Evaluator
from peftbench.tasks.linear_task import LinearTask
from peftbench.tasks.multilabel import schema
from peftbench.tasks.multilabel.evaluator import LabelEvaluator
from peftbench.tasks.multilabel.figures import MultilabelFigures
from peftbench.tasks.multilabel.predictor import LabelPredictor
from peftbench.tasks.predictor import Predictor


class Multilabel(LinearTask):
    """`threshold`: the probability from which on an image has a label.

    It is 0.5 while the run trains. In the end it is what serves F1 best on the validation images, one for all labels,
    and is kept with the head. Without validation images it stays 0.5.
    """

    solved_as: ClassVar[str] = "labels"
    concludes: ClassVar[bool] = True
    predictor: ClassVar[type[Predictor]] = LabelPredictor
    evaluator: ClassVar[type[Evaluator] | None] = LabelEvaluator

    threshold: Tensor

    def __init__(self, backbone: Backbone, classes: Sequence[str], label_smoothing: float = 0.0) -> None:
        super().__init__(backbone, classes)
        self.label_smoothing = label_smoothing
        self.register_buffer("threshold", torch.tensor(0.5))

    @classmethod
    def build(
        cls, section: schema.Multilabel, backbone: Backbone, classes: Sequence[str], categories: Sequence[int] = ()
    ) -> Multilabel:
        return cls(backbone, classes, section.label_smoothing)

    @classmethod
    def look_at(
        cls, config: Config, transform: Preparation, roles: Sequence[Split | None], classes: Sequence[str]
    ) -> list[str]:
        """Which labels no training image has, or none to judge by."""
        notes = []
        for words, split in zip(("training", "validation", "test"), roles, strict=True):
            if split is None or config.trainer.trial:
                continue
            without = np.flatnonzero(split.labels.sum(0) == 0)
            if len(without):
                one, name = len(without) == 1, classes[without[0]]
                which = f"the label {name}" if one else f"{len(without):,} of the labels, such as {name}"
                counts = "does not count" if one else "do not count"
                then = "cannot be learned" if words == "training" else f"{counts} in its mAP"
                notes.append(f"no {words} image has {which}, which {then}")
        return notes

    def wanted(self, targets: Tensor) -> Tensor:
        """1 for a label that an image has, -1 for one that it has not, (B, labels): a probability of 0.5 is between."""
        return 2 * targets.double() - 1

    def loss(self, extract: Extract, backbone: Backbone, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean binary cross-entropy of (images, labels), over images and labels, a scalar."""
        images, labels = batch[:2]
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(self.outputs(extract, backbone, images), labels)

    def metrics(self) -> MultilabelFigures:
        """What `update(predictions, labels)` measures: mAP, and F1 at the threshold."""
        return MultilabelFigures(len(self.classes), lambda: self.threshold.item())

    def conclude(self, metrics: Metrics) -> Mapping[str, Any]:
        """Takes the threshold that serves F1 best."""
        assert isinstance(metrics, MultilabelFigures)
        self.threshold.fill_(metrics.best_threshold())
        return {"threshold": self.threshold.item()}

    def evaluation_loss(self, predictions: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Binary cross-entropy without smoothing, of each image the mean over labels, summed over the batch."""
        return F.binary_cross_entropy_with_logits(predictions.float(), batch[1], reduction="none").mean(1).sum()

    def blank_targets(self, images: int) -> Tensor:
        """Labels (B, classes), none of which is there."""
        return torch.zeros(images, len(self.classes))


TASK = Multilabel
