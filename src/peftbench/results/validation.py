"""What settings reached on validation images, by which one of a method's is chosen: test images must not choose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

from peftbench.results.summary import Run


class Trials:
    """What settings reached on validation images, also in runs that looked at no test image."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    @cached_property
    def _by_setting(self) -> dict[Any, list[Run]]:
        """Of all runs: few reports have settings to choose among, and ask for it."""
        by_setting: dict[Any, list[Run]] = defaultdict(list)
        for run in self._runs:
            if run.status == "complete":
                by_setting[_key(run)].append(run)
        return by_setting

    def validated(self, runs: Sequence[Run], metric: str) -> float | None:
        """The mean over seeds of what runs of one setting on one task reached on validation images.

        It is their own figure, or that of the trial by which a protocol chose; else that of other runs of the setting
        on the same data, as of `data.stage=tune`. None where there is none.

        Args:
            metric: such as `val/accuracy`.
        """
        own = _figures(runs, metric)
        values = own or _figures(self._by_setting.get(_key(runs[0]), ()) if runs else (), metric)
        return fmean(values) if values else None


def _figures(runs: Sequence[Run], metric: str) -> list[float]:
    return [value for run in runs if (value := run.validated(metric)) is not None]


def _key(run: Run) -> Any:
    """Equal where a setting was tried on the same data, whatever part of it the run was trained on."""
    basis = tuple(pair for pair in run.basis if pair[0] != "trained on")
    return run.method, run.setting, run.batch, run.tuned, basis, run.task, run.source


def is_of_test_images(metric: str) -> bool:
    """Whether to pick the best by this metric is to pick on test images (shifted ones are such too)."""
    return metric.partition("/")[0] not in ("val", "train")


def validation_metric(metric: str, primary: str) -> str:
    """What settings are chosen by where methods are compared by `metric`; more of it is better.

    Args:
        primary: the metric that the task is judged by.
    """
    role, _, name = metric.partition("/")
    return f"val/{name}" if role == "test" and name != "loss" else f"val/{primary}"
