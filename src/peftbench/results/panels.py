"""What is drawn together: for each data set the rows of all boards whose figures there may be compared."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from peftbench.results.board import MEAN, VTAB_TASKS, Board, Mean, Row
from peftbench.results.pareto import comparable_rows, pareto_front
from peftbench.results.summary import Run

WHOLE_VTAB = "VTAB-1k, mean of the groups"
_TELLING = ("weights", "input", "normalisation", "fingerprint")  # of a board's basis, two backbones of one name


@dataclass(frozen=True)
class Place:
    """A row on a panel, with the runs of the panel alone. `board` counts the boards before its own."""

    board: int
    backbone: str
    row: Row
    mean: Mean

    def known_cost(self, name: str) -> float | None:
        """A cost (a field of `Costs`); None where times or memory are of several machines."""
        return self.row.cost(name) if name == "parameters" or len(self.row.machines) == 1 else None


@dataclass
class Panel:
    """A data set, or all of VTAB, in one split and with the same images to train on, judged by one metric.

    `tasks` are the data sets by which a filter finds it.
    """

    title: str
    metric: str
    tasks: tuple[str, ...]
    split: str
    trained_on: str
    places: list[Place] = field(default_factory=list)

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

        Args:
            cost: train, memory or parameters.
        """
        found = []
        for comparable in comparable_rows([place.row for place in self.places], cost):
            points = [(i, self.places[i].known_cost(cost), self.places[i].mean.value) for i in comparable]
            known = [(i, price, value) for i, price, value in points if price is not None and value is not None]
            front = pareto_front([(price, value) for _, price, value in known])
            if front:
                found.append([known[at][0] for at in front])
        return found


def panels(boards: Sequence[Board], incomplete: bool = False) -> list[Panel]:
    """A panel for each data set of the boards, in their order; that of VTAB's mean stands before its data sets.

    Args:
        incomplete: whether a mean over fewer tasks than there are is drawn.
    """
    by_key: dict[Hashable, Panel] = {}
    names = backbone_names(boards)
    for number, board in enumerate(boards):
        basis = dict(board.basis)
        splits = {run.task: run.split for run in board.all_runs()}
        if board.vtab:
            key: Hashable = (board.metric, basis["trained on"], tuple(sorted(splits.items())))
            panel = Panel(WHOLE_VTAB, board.metric, VTAB_TASKS, basis["split"], basis["trained on"])
            means = [(row, board.means(row, incomplete)[MEAN]) for row in board.rows]
            places = [Place(number, names[number], row, mean) for row, mean in means if mean.value is not None]
            if places:
                by_key.setdefault(key, panel).places += places
        for task in board.tasks:
            key = (board.metric, basis["trained on"], task, splits[task])
            panel = Panel(task.removeprefix("vtab/"), board.metric, (task,), splits[task], basis["trained on"])
            of_task = by_key.setdefault(key, panel)
            for row in board.rows:
                if row.runs.get(task):
                    part = replace(row, runs=defaultdict(list, {task: row.runs[task]}))
                    of_task.places.append(Place(number, names[number], part, board.cell(row, task)))
    found = list(by_key.values())
    _tell_apart(found)
    for panel in found:
        panel.places.sort(key=lambda place: -(place.mean.value or 0.0))
    return found


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


def backbone_names(boards: Sequence[Board]) -> list[str]:
    """The backbone of each board as the user named it, with what tells it from another board's of the same name."""
    names = [next(board.all_runs()).backbone for board in boards]
    for name, number in Counter(names).items():
        if number == 1:
            continue
        alike = [i for i, other in enumerate(names) if other == name]
        bases = {i: dict(boards[i].basis) for i in alike}
        keys = [
            k for k in ("weights", "input", "normalisation", "fingerprint") if len({bases[i][k] for i in alike}) > 1
        ]
        if "weights" in keys and "fingerprint" in keys:
            keys.remove("fingerprint")
        for i in alike:
            names[i] = ", ".join([name, *(bases[i][key] for key in keys)])
    return names
