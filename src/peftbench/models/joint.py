"""Several runs' side nets and heads over one frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.methods.base import Side
from peftbench.models.model import Model, _through
from peftbench.tasks.base import Extract, Task


def _known(taps: list[Tensor]) -> Extract:
    """An `extract` that answers what is known already."""
    return lambda images: taps


class JointModel(nn.Module):
    """Several runs' side nets and heads over one frozen backbone: one forward pass of it serves all.

    Args:
        models: of the same backbone and the same kind of side net, which read the same taps.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        self.runs = nn.ModuleList(models)

    @property
    def backbone(self) -> Backbone:
        return self.models[0].backbone

    @property
    def task(self) -> Task:
        return self.models[0].task

    @property
    def side(self) -> Side | None:
        return self.models[0].side

    @property
    def models(self) -> list[Model]:
        return [cast(Model, m) for m in self.runs]

    @property
    def multiple(self) -> int:
        return self.models[0].multiple

    def padded_batches(self) -> AbstractContextManager[None]:
        """As `Model.padded_batches`."""
        return self.models[0].padded_batches()

    @property
    def kept(self) -> tuple[int, ...]:
        return self.models[0].kept

    def condense(self, taps: list[Tensor]) -> list[Tensor]:
        """As `Model.condense`."""
        return self.models[0].condense(taps)

    def frozen(self, images: Tensor) -> list[Tensor]:
        """As `Model.frozen`."""
        return self.models[0].frozen(images)

    def forward(self, images: Tensor, cached: list[Tensor] | None = None) -> list[Any]:
        """Each run's predictions."""
        given = zip(self.models, self._extracted(images, cached), strict=True)
        return [m.task.predict(_known(taps), m.backbone, images) for m, taps in given]

    def evaluate(self, batch: Any) -> list[Any]:
        """Each run's predictions for a batch, in the form that its task's metrics take."""
        given = zip(self.models, self._extracted(batch[0], getattr(batch, "taps", None)), strict=True)
        return [m.task.evaluate(_known(taps), m.backbone, batch) for m, taps in given]

    def loss(self, batch: Any, cached: list[Tensor] | None = None) -> Tensor:
        """Each run's training loss (K,): the gradient of their sum is each one's own."""
        cached = getattr(batch, "taps", None) if cached is None else cached
        given = zip(self.models, self._extracted(batch[0], cached), strict=True)
        return torch.stack([m.task.loss(_known(taps), m.backbone, batch) for m, taps in given])

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that trains, of all runs."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]

    def start(self) -> dict[str, str]:
        """The backbone's starting hashes under this model's names."""
        return {f"runs.{i}.{n}": d for i, m in enumerate(self.models) for n, d in m.start().items()}

    def _extracted(self, images: Tensor, cached: list[Tensor] | None) -> list[list[Tensor]]:
        return _through(self.models, self.frozen(images) if cached is None else cached)
