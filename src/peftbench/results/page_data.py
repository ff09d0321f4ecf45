"""What the page's script reads: how each method looks, and what the charts draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from peftbench.results.board import Board, Row, has_comparable_costs
from peftbench.results.panels import Panel, Place, backbone_names, panels
from peftbench.results.summary import Run
from peftbench.results.task_results import short

COSTS = ("train", "memory", "parameters")


def page_data(boards: Sequence[Board], incomplete: bool) -> dict[str, Any]:
    """Values are shares, costs counts, seconds and bytes.

    A row looks alike everywhere: `methods` gives a method its colour by its place there, and `variants` (backbone and
    setting) the shape of a mark. `fronts` holds, for each cost, the Pareto fronts of rows that may be compared, as
    lists of indices into `rows`.

    Args:
        incomplete: whether a mean over fewer tasks than there are is drawn.
    """
    looks = _Looks(boards)
    return {
        "methods": looks.methods,
        "variants": [looks.in_words(variant) for variant in looks.variants],
        "tasks": list(dict.fromkeys(_plain(task) for board in boards for task in board.tasks)),
        "boards": [
            {"backbone": name, "rows": [{"label": row.label, **looks.of(row, name)} for row in board.rows]}
            for board, name in zip(boards, looks.backbones, strict=True)
        ],
        "panels": [_panel(panel, looks) for panel in panels(boards, incomplete)],
    }


class _Looks:
    """The colour and the shape of every row, as places in lists."""

    def __init__(self, boards: Sequence[Board]) -> None:
        self.backbones = backbone_names(boards)
        self.methods = sorted({row.method for board in boards for row in board.rows})
        named = zip(boards, self.backbones, strict=True)
        self.variants = sorted({(name, _setting(row)) for board, name in named for row in board.rows})
        self.several_backbones = len(set(self.backbones)) > 1

    def of(self, row: Row, backbone: str) -> dict[str, int]:
        return {
            "method": self.methods.index(row.method),
            "variant": self.variants.index((backbone, _setting(row))),
        }

    def in_words(self, variant: tuple[str, str]) -> str:
        backbone, setting = variant
        if not self.several_backbones:
            return setting or "its one setting"
        return f"{backbone}, {setting}" if setting else backbone


def _setting(row: Row) -> str:
    """What the row's label adds to its method."""
    return row.label.removeprefix(row.method).strip()


def _plain(task: str) -> str:
    return task.removeprefix("vtab/")


def _panel(panel: Panel, looks: _Looks) -> dict[str, Any]:
    return {
        "title": panel.title,
        "tasks": [_plain(task) for task in panel.tasks],
        "metric": short(panel.metric),
        "primary": panel.primary,
        "images": panel.images,
        "trained_on": panel.trained_on,
        "backbones": panel.backbones,
        "rows": [_row(place, panel, looks) for place in panel.places],
        "fronts": {cost: panel.fronts(cost) for cost in COSTS},
    }


def _row(place: Place, panel: Panel, looks: _Looks) -> dict[str, Any]:
    row = place.row
    runs = next(iter(row.runs.values())) if len(panel.tasks) == 1 else []
    return {
        "board": place.board,
        "row": row.label,
        "label": f"{row.label} on {place.backbone}" if len(panel.backbones) > 1 else row.label,
        **looks.of(row, place.backbone),
        "times": row.times,
        "choice": str(row.choice),
        "seeds": row.seeds,
        "comparable": has_comparable_costs(row),
        "value": _round(place.mean.value),
        "half": _round(place.mean.half),
        "costs": {cost: _round(place.known_cost(cost)) for cost in COSTS},
        "curve": _curve(runs),
        "layers": runs[0].layers if runs else [],
    }


def _curve(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    """Means over the seeds that were recorded at the same epochs as the first."""
    curves = [run.curve for run in runs if len(run.curve[0])]
    same = [curve for curve in curves if curve[0] == curves[0][0]]
    if not same:
        return {}
    losses, values = ([_average(at) for at in zip(*(curve[i] for curve in same), strict=True)] for i in (1, 2))
    return {"epochs": [_round(epoch) for epoch in same[0][0]], "loss": losses, "val": values}


def _average(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return _round(sum(known) / len(known)) if known else None


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
