"""Which images a batch is of, as it is told to a process that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Whole(NamedTuple):
    """A batch of all processes together: its images (B,), the places (b,) in it that this process reads, and a seed."""

    indices: Tensor
    places: Tensor
    seed: int


class Indices(list[int]):
    """Indices of one batch in this process, the seed of its augmentation, and the whole batch that it is a part of."""

    def __init__(self, indices: Sequence[int], seed: int | None, whole: Whole | None = None) -> None:
        super().__init__(indices)
        self.seed = seed
        self._whole = whole

    def __reduce__(self) -> tuple[Any, ...]:
        """To a process that reads they go as plain numbers: tensors would need the memory that processes share."""
        whole = self._whole
        plain = None if whole is None else (whole[0].numpy(), whole[1].numpy(), whole[2])
        return _restored, (list(self), self.seed, plain)

    @property
    def whole(self) -> Whole:
        """The whole batch; where nobody says otherwise, these are all of it."""
        return self._whole or Whole(torch.tensor(self, dtype=torch.long), torch.arange(len(self)), self.seed or 0)


def _restored(indices: list[int], seed: int | None, whole: tuple[np.ndarray, np.ndarray, int] | None) -> Indices:
    of = None if whole is None else Whole(torch.from_numpy(whole[0]), torch.from_numpy(whole[1]), whole[2])
    return Indices(indices, seed, of)
