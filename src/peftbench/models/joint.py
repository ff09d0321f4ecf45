"""Several runs' side nets and heads over one frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.methods.base import Side
from peftbench.models.model import Model, apply_side_nets, mirrored
from peftbench.models.one_value import variance_needed
from peftbench.tasks.base import Extract, Task


def extract_known(taps: list[Tensor]) -> Extract:
    """An `extract`, as tasks call it, that gives taps which were computed before."""
    return lambda images: taps


class JointModel(nn.Module):
    """Several runs' side nets and heads over one frozen backbone: one forward pass of it serves all.

    It offers what `Model` does to those who train and evaluate; where a `Model` has one result, this has a list of
    them, one for each run. What all runs share (backbone, kept taps, padding) is asked of the first.

    Args:
        models: models over the same backbone, with side nets of the same class that read the same taps.

    Attributes:
        runs: the models, whose parameters are named `runs.<i>.…` here.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        self.runs = nn.ModuleList(models)

    @property
    def backbone(self) -> Backbone:
        """The backbone that all runs share."""
        return self.models[0].backbone

    @property
    def task(self) -> Task:
        """The first run's task; all have the same."""
        return self.models[0].task

    @property
    def side(self) -> Side | None:
        """The first run's side net; all are of its class."""
        return self.models[0].side

    @property
    def models(self) -> list[Model]:
        """The model of each run."""
        return [cast(Model, m) for m in self.runs]

    @property
    def multiple(self) -> int:
        """As `Model.multiple`."""
        return self.models[0].multiple

    def padded_batches(self) -> AbstractContextManager[None]:
        """As `Model.padded_batches`."""
        return self.models[0].padded_batches()

    @property
    def goes_on_from_taps(self) -> bool:
        """As `Model.goes_on_from_taps`: all runs are of a side method."""
        return True

    @property
    def places_of_kept_taps(self) -> list[tuple[str, tuple[int, ...]]]:
        """As `Model.places_of_kept_taps`."""
        return self.models[0].places_of_kept_taps

    @property
    def prefix(self) -> None:
        """As `Model.prefix`, which no side method has."""

    @property
    def condensed(self) -> str:
        """As `Model.condensed`."""
        return self.models[0].condensed

    def condense(self, taps: list[Tensor]) -> list[Tensor]:
        """As `Model.condense`."""
        return self.models[0].condense(taps)

    def frozen(self, images: Tensor) -> list[Tensor]:
        """As `Model.frozen`."""
        return self.models[0].frozen(images)

    def forward(self, images: Tensor, cached: list[Tensor] | None = None) -> list[Any]:
        """Each run's predictions."""
        return [m.task.predict(extract, m.backbone, images) for m, extract in self._extracts(images, cached)]

    def evaluate(self, batch: Any) -> list[Any]:
        """Each run's predictions for a batch, in the form that its task's metrics take."""
        cached = getattr(batch, "taps", None)
        images = batch[0]
        if not self.models[0].flips or self.training or cached is not None:
            return [m.task.evaluate(extract, m.backbone, batch) for m, extract in self._extracts(images, cached)]
        answers = []
        both = zip(self._extracts(images, None), self._extracts(mirrored(images), None), strict=True)
        for (m, extract), (_, of_mirrored) in both:
            scores = m.task.scores(extract, m.backbone, images)
            others = m.task.unmirrored(m.task.scores(of_mirrored, m.backbone, mirrored(images)))
            answers.append(m.task.judged((scores + others) / 2, batch))
        return answers

    def loss(self, batch: Any, cached: list[Tensor] | None = None) -> Tensor:
        """Each run's training loss (K,): the gradient of their sum is each one's own."""
        cached = getattr(batch, "taps", None) if cached is None else cached
        first = self.models[0]
        with variance_needed(first.backbone.facts, partial(first.task.size, batch)):
            extracts = self._extracts(batch[0], cached)
            return torch.stack([m.task.loss(extract, m.backbone, batch) for m, extract in extracts])

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that trains, of all runs."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]

    def start(self) -> dict[str, str]:
        """The backbone's starting hashes under this model's names."""
        return {f"runs.{i}.{n}": d for i, m in enumerate(self.models) for n, d in m.start().items()}

    def _extracts(self, images: Tensor, cached: list[Tensor] | None) -> Iterator[tuple[Model, Extract]]:
        """Each run's model, and an `extract` that gives its adapted taps of these images."""
        taps = apply_side_nets(self.models, self.frozen(images) if cached is None else cached)
        for model, adapted in zip(self.models, taps, strict=True):
            yield model, extract_known(adapted)
