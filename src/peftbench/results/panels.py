"""What is drawn together: for each data set the rows of all boards whose figures there may be compared."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from peftbench.results.board import FLAT, MEAN, VTAB_TASKS, Board, Mean, Row
from peftbench.results.groups import Group, Line
from peftbench.results.pareto import comparable_rows, pareto_front
from peftbench.results.summary import Run
from peftbench.results.task_results import less_is_better

WHOLE_VTAB = "VTAB-1k, mean of the groups"


@dataclass(frozen=True)
class Place:
    """A row on a panel, with the runs of the panel alone: it is in a line of a group, both of which have a number."""

    group: int
    at: int
    backbone: str
    line: Line
    row: Row
    mean: Mean

    def known_cost(self, name: str) -> float | None:
        """A cost (a field of `Costs`); None where times or memory are of several machines."""
        return self.row.cost(name) if name == "parameters" or len(self.row.machines) == 1 else None


@dataclass
class Panel:
    """A data set, or all of VTAB, in one split and with the same images to train on, judged by one metric.

    `tasks` are the data sets by which a filter finds it, and `without` the rows that have no mean over them.
    """

    title: str
    metric: str
    tasks: tuple[str, ...]
    split: str
    trained_on: str
    places: list[Place] = field(default_factory=list)
    without: list[Place] = field(default_factory=list)

    @property
    def primary(self) -> str:
        """The metric that the runs are judged by during training."""
        return next(self.all_runs()).primary

    def all_runs(self) -> Iterator[Run]:
        """The runs of all rows."""
        for place in self.places:
            yield from place.row.all_runs()

    @property
    def backbones(self) -> list[str]:
        """Those of its rows, as the user named them."""
        return sorted({place.backbone for place in self.places})

    @property
    def images(self) -> int | None:
        """How many images each figure was measured on; None of a mean over data sets, or where no record says it."""
        numbers = {run.images_behind(self.metric) for run in self.all_runs()}
        return numbers.pop() if len(self.tasks) == 1 and len(numbers) == 1 else None

    def fronts(self, cost: str) -> list[list[int]]:
        """The Pareto fronts, one for each kind of costs that may be compared, as lists of indices into `places`.

        There is none of a loss or another error, of which the highest is the worst.

        Args:
            cost: train, memory or parameters.
        """
        found: list[list[int]] = []
        if less_is_better(self.metric):
            return found
        for comparable in comparable_rows([place.row for place in self.places], cost):
            points = [(i, self.places[i].known_cost(cost), self.places[i].mean.value) for i in comparable]
            known = [(i, price, value) for i, price, value in points if price is not None and value is not None]
            front = pareto_front([(price, value) for _, price, value in known])
            if front:
                found.append([known[at][0] for at in front])
        return found


def panels(groups: Sequence[Group], incomplete: bool = False) -> list[Panel]:
    """A panel for each data set, those with most rows first; that of a mean over data sets stands before them.

    Args:
        incomplete: whether a mean over fewer tasks than there are is drawn.
    """
    by_key: dict[Hashable, Panel] = {}
    for number, group in enumerate(groups):
        for at, board in enumerate(group.boards):
            whole = [
                Place(number, i, board.words, line, line.rows[at], Mean(None))
                for i, line in enumerate(group.lines)
                if at in line.rows
            ]
            parts = [_of_task(board, task, whole) for task in board.tasks]
            for part in [_of_mean(board, whole, incomplete), *parts] if board.has_means else parts:
                panel = by_key.setdefault(
                    (dict(board.basis)["task"], part.metric, part.trained_on, part.tasks, part.split), part
                )
                if panel is not part:
                    panel.places += part.places
                    panel.without += part.without
    found = [panel for panel in by_key.values() if panel.places]
    found.sort(key=lambda panel: (len(panel.tasks) == 1, -len(panel.places)))
    _tell_apart(found)
    for panel in found:
        panel.places.sort(key=lambda place: -(place.mean.value or 0.0))
    return found


def _of_task(board: Board, task: str, whole: Sequence[Place]) -> Panel:
    """What a board adds to the panel of a data set; `whole` are its rows."""
    split = next(run.split for run in board.all_runs() if run.task == task)
    panel = Panel(task.removeprefix("vtab/"), board.metric, (task,), split, dict(board.basis)["trained on"])
    for place in whole:
        if place.row.runs.get(task):
            part = replace(place.row, runs=defaultdict(list, {task: place.row.runs[task]}))
            panel.places.append(replace(place, row=part, mean=board.cell(part, task)))
    return panel


def _of_mean(board: Board, whole: Sequence[Place], incomplete: bool) -> Panel:
    """What a board adds to the panel of a mean over its data sets; the arguments are those of others here."""
    tasks = tuple(VTAB_TASKS if board.vtab else board.tasks)
    title, name = (WHOLE_VTAB, MEAN) if board.vtab else (f"Mean over {len(tasks)} data sets", FLAT)
    splits = sorted({run.split for run in board.all_runs()})
    panel = Panel(title, board.metric, tasks, "; ".join(splits), dict(board.basis)["trained on"])
    for place in whole:
        mean = board.means(place.row, incomplete)[name]
        if mean.value is None:
            panel.without.append(place)
        else:
            panel.places.append(replace(place, mean=mean))
    return panel


def _tell_apart(found: Sequence[Panel]) -> None:
    """Adds to titles that occur twice in what the panels differ."""
    titles = Counter(panel.title for panel in found)
    for title, number in titles.items():
        alike = [panel for panel in found if panel.title == title]
        if number == 1:
            continue
        for name, shown in (("metric", "{}"), ("trained_on", "trained on {}"), ("split", "split {}")):
            if len({getattr(panel, name) for panel in alike}) > 1:
                for panel in alike:
                    panel.title += f", {shown.format(getattr(panel, name))}"
