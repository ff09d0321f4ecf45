"""What a task adds to the page of a run: what was predicted, as sections with charts, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peftbench.data.base import Split
from peftbench.data.pixel_values import Range
from peftbench.data.thumbnails import SIDE, data_uri, is_tiny, picture_of, small
from peftbench.results.page_parts import Chart, PagePart, Picture
from peftbench.results.text_table import TextTable

_BARS = 40


@dataclass(frozen=True)
class Seen:
    """Images of a finished run's split with what it predicted for them.

    Attributes:
        split: the images that were looked at.
        role: `test` or `val`.
        classes: names in the order of the predictions; empty where there are none.
        predictions: what `Task.evaluate` gave for them, a tensor (N, …) or a list of N.
        folder: the run's.
        metrics: those of the run's record.
        values: which values of images of more than 8 bits are black and white.
    """

    split: Split
    role: str
    classes: tuple[str, ...]
    predictions: Any
    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: Range = "auto"

    def image(self, index: int) -> Image.Image | None:
        """The image at its own size, in RGB; None where it is gone."""
        return picture_of(self.split, index, self.values)

    def thumbnail(self, index: int, told: Sequence[str]) -> Picture | None:
        """A small picture of an image under its name; None where it is gone."""
        image = self.image(index)
        if image is None:
            return None
        shown = small(image, SIDE)
        return Picture(data_uri(shown), str(self.split.names[index]), tuple(told), is_tiny(shown))


@dataclass(frozen=True)
class Explained:
    """An image of `Seen` whose prediction is to be explained: which of the outputs, and what there is to say of it."""

    index: int
    output: int
    told: tuple[str, ...]


class RunPage:
    """A task that says nothing of its own has a page with what its record holds."""

    def parts(self, seen: Seen) -> list[PagePart]:
        """The sections that show what was predicted."""
        return []

    def right(self, seen: Seen) -> np.ndarray | None:
        """Of each image whether the prediction is right, bool (N,); None where there is no such thing."""
        return None

    def explained(self, seen: Seen) -> list[Explained]:
        """The few images of which the page shows where the model looks; none where no single output is to explain."""
        return []


def by_class(seen: Seen, metric: str) -> PagePart | None:
    """A metric of each class, as the run's own evaluation measured it, the worst first; None where there is none.

    Args:
        seen: of the run.
        metric: as metrics call it between the split and the class, such as AP.
    """
    start = f"{seen.role}/{metric}/"
    values = {n.removeprefix(start): v for n, v in seen.metrics.items() if n.startswith(start)}
    order = sorted(values, key=lambda name: values[name])
    if not order:
        return None
    table = TextTable("", [("class", False), (f"{metric} %", True)], [[n, f"{100 * values[n]:.1f}"] for n in order])
    table.values = [[None, values[name]] for name in order]
    rows = [{"name": n, "values": [values[n]], "told": f"{100 * values[n]:.1f}"} for n in order[:_BARS]]
    chart = Chart("bars", f"{metric} of each class", {"names": [metric], "rows": rows, "unit": "%"})
    return PagePart("By class", ["From the run's own evaluation; the worst come first."], [chart], [table])
