"""Whether a run learned its training images by heart, as its record's history tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.results.figures import is_figure

_RISE = 1.1


@dataclass(frozen=True, slots=True)
class Overfit:
    """The epoch (from 1) in which the validation loss was least, and the last one, each with its two losses."""

    best: int
    least: float
    train_then: float
    last: int
    rose_to: float
    train_now: float

    def __str__(self) -> str:
        return (
            f"its validation loss was least in epoch {self.best} ({self.least:.3g}) and is {self.rose_to:.3g} in epoch "
            f"{self.last}, while that of training fell from {self.train_then:.3g} to {self.train_now:.3g}"
        )


def overfit_of(config: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Overfit | None:
    """How a run overfits: the loss on validation images rose while that of training fell; None where it does not.

    Rose is: by more than a tenth of its least value, which an earlier epoch had. A run that keeps its best epoch has
    done what there is to do. A record may come from anywhere: rows without these numbers tell nothing.

    Args:
        config: the record's.
        history: a row an epoch, with `epoch`, `train_loss` and, where there are validation images, `val_loss`.
    """
    trainer = config.get("trainer") if isinstance(config, Mapping) else None
    if isinstance(trainer, Mapping) and trainer.get("keep") == "best":
        return None
    rows = [row for row in map(_losses, history) if row is not None]
    if len(rows) < 2:
        return None
    (best, train_then, least), (last, train_now, rose_to) = min(rows, key=lambda row: row[2]), rows[-1]
    if rose_to <= _RISE * least or train_now >= train_then:
        return None
    return Overfit(best, least, train_then, last, rose_to, train_now)


def _losses(row: Any) -> tuple[int, float, float] | None:
    """Epoch, training loss and validation loss."""
    values: list[Any] = (
        [row.get(name) for name in ("epoch", "train_loss", "val_loss")] if isinstance(row, Mapping) else []
    )
    if not values or not all(map(is_figure, values)):
        return None
    epoch, train, val = values
    return int(epoch), float(train), float(val)
