"""What the page's script reads: how each method looks, and what the charts draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from peftbench.common.amounts import plural
from peftbench.results.board import has_comparable_costs
from peftbench.results.groups import Group, Line
from peftbench.results.panels import Panel, Place, panels
from peftbench.results.row_names import cut
from peftbench.results.summary import Run
from peftbench.results.task_results import images_of, short, unit

COSTS = ("train", "memory", "parameters")


def page_data(groups: Sequence[Group], incomplete: bool) -> dict[str, Any]:
    """Values are shares, costs counts, seconds and bytes.

    A row looks alike everywhere: `methods` gives a method its colour by its place there, and `variants` (backbone and
    setting) the shape of a mark. `fronts` holds, for each cost, the Pareto fronts of rows that may be compared, as
    lists of indices into `rows`.

    Args:
        incomplete: whether a mean over fewer tasks than there are is drawn.
    """
    looks = _Looks(groups)
    return {
        "methods": [cut(method) for method in looks.methods],
        "variants": [looks.in_words(variant) for variant in looks.variants],
        "tasks": list(dict.fromkeys(_plain(task) for group in groups for task in group.data_sets)),
        "groups": [
            {
                "backbone": group.first.words,
                "lines": [looks.line(line, group.first.words) for line in group.lines],
                "tried": sorted({tried.row.label for board in group.boards for tried in board.tried}),
            }
            for group in groups
        ],
        "panels": [_panel(panel, looks) for panel in panels(groups, incomplete)],
    }


class _Looks:
    """The colour and the shape of every line, as places in lists."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.methods = sorted({line.trait.method for group in groups for line in group.lines})
        self.variants = sorted({(group.first.words, _setting(line)) for group in groups for line in group.lines})
        self.several_backbones = len({group.first.words for group in groups}) > 1

    def of(self, line: Line, backbone: str) -> dict[str, int]:
        return {
            "method": self.methods.index(line.trait.method),
            "variant": self.variants.index((backbone, _setting(line))),
        }

    def line(self, line: Line, backbone: str) -> dict[str, Any]:
        """`names` are what tables call it."""
        names = {line.label, *(row.label for row in line.rows.values())}
        return {"label": line.label, "names": sorted(names), **self.of(line, backbone)}

    def in_words(self, variant: tuple[str, str]) -> str:
        backbone, setting = variant
        if not self.several_backbones:
            return setting or "its one setting"
        return f"{backbone}, {setting}" if setting else backbone


def _setting(line: Line) -> str:
    """What the line's label adds to its method."""
    method = line.trait.method
    return line.label.removeprefix(method if line.label.startswith(method) else cut(method)).strip()


def _plain(task: str) -> str:
    return task.removeprefix("vtab/")


def _panel(panel: Panel, looks: _Looks) -> dict[str, Any]:
    return {
        "title": panel.title,
        "tasks": [_plain(task) for task in panel.tasks],
        "metric": short(panel.metric),
        "unit": unit(panel.metric),
        "primary": panel.primary,
        "images": _images(panel),
        "without": [_name(place, panel) for place in panel.without],
        "trained_on": panel.trained_on,
        "backbones": panel.backbones,
        "rows": [_row(place, panel, looks) for place in panel.places],
        "fronts": {cost: panel.fronts(cost) for cost in COSTS},
    }


def _images(panel: Panel) -> str:
    """`250 test images`; the empty string where it is not one number."""
    number = panel.images
    return "" if number is None else plural(f"{number:,}", images_of(panel.metric))


def _name(place: Place, panel: Panel, full: bool = False) -> str:
    """What the row is called on the panel: with its backbone where there are several."""
    name = place.line.name.full if full else place.line.label
    return f"{name} on {place.backbone}" if len(panel.backbones) > 1 else name


def _row(place: Place, panel: Panel, looks: _Looks) -> dict[str, Any]:
    row = place.row
    runs = next(iter(row.runs.values())) if len(panel.tasks) == 1 else []
    return {
        "group": place.group,
        "line": place.at,
        "label": _name(place, panel),
        "in_full": _name(place, panel, full=True),
        **looks.of(place.line, place.backbone),
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
