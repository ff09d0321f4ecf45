"""What to tell beside results: a method that is below the probe on the same data, a run that learned by heart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peftbench.results.board import Board
from peftbench.results.overfitting import Overfit
from peftbench.results.task_results import less_is_better

_POINT = 0.01
REMEDY = "lower the learning rate, take layer decay, or method=lp_ft, which begins from the probe's head"
CURE = "give trainer.keep=best, fewer epochs or augmentation"


@dataclass(frozen=True)
class Reached:
    """What a method reached on some data; `half` is half of its interval over seeds, 0 where there is none.

    `own` are its parameters besides the head: a probe has none.
    """

    name: str
    place: str
    value: float
    own: float | None
    half: float = 0.0


def below_probe(figures: Iterable[Reached]) -> list[str]:
    """A sentence for each method more than a point, and than the seeds' noise, below the best probe of its place."""
    figures = list(figures)
    notes = []
    for place in dict.fromkeys(figure.place for figure in figures):
        here = [figure for figure in figures if figure.place == place]
        probes = [figure for figure in here if figure.own == 0]
        if not probes:
            continue
        probe = max(probes, key=lambda figure: figure.value)
        for other in here:
            if other.own and probe.value - other.value > max(_POINT, probe.half + other.half):
                notes.append(
                    f"{place}: {other.name} reached {100 * other.value:.1f} %, the probe ({probe.name}) "
                    f"{100 * probe.value:.1f} %: {REMEDY}."
                )
    return notes


def below_probe_on(board: Board) -> list[str]:
    """As `below_probe`, of a board's rows."""
    if less_is_better(board.metric):
        return []
    figures = []
    for row in board.rows:
        counts = {run.costs.parameters for run in row.all_runs()}
        own = counts.pop() if len(counts) == 1 else None
        for task in board.tasks:
            cell = board.cell(row, task)
            if cell.value is not None:
                figures.append(Reached(row.label, task, cell.value, own, cell.half or 0.0))
    return below_probe(figures)


def overfitted(name: str, overfits: Overfit | None) -> str:
    """The sentence on a run that overfits; nothing of one that does not."""
    return "" if overfits is None else f"{name}: overfits: {overfits}: {CURE}."


def overfitted_on(board: Board) -> list[str]:
    """A sentence for each row and data set of a board of which at least half of the runs overfit, by one of them."""
    notes = []
    for row in board.rows:
        for task in board.tasks:
            runs = row.runs.get(task, [])
            overfits = [run.overfits for run in runs if run.overfits is not None]
            if not overfits or 2 * len(overfits) < len(runs):
                continue
            number = f" in {len(overfits)} of {len(runs)} runs" if len(runs) > 1 else ""
            such = "of one, the" if len(overfits) > 1 else "the"
            notes.append(
                f"{task}: {row.label} overfits{number}: {such} {str(overfits[0]).removeprefix('its ')}: {CURE}."
            )
    return notes
