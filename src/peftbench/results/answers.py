"""Which method: per data set the highest, what is not told apart from it, the cheapest of these, and what was left out.

It is the data alone; `answer_text.py` says it in words. Backbones are compared where data set, split and metric are the
same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from peftbench.results.board import VTAB_TASKS, Board, Mean, Row
from peftbench.results.cheapest import COSTS, Cheapest, cheapest, recommended
from peftbench.results.settings import Setting
from peftbench.results.stats import ALPHA, holm_corrected
from peftbench.results.summary import Run
from peftbench.results.telling import Telling, least_told_apart, tell

_OF_BACKBONE = ("backbone", "weights", "fingerprint", "input", "normalisation")
_ALL_PAIRS = 30  # contenders; of more, each is compared with the highest alone


@dataclass(frozen=True)
class Contender:
    """A row of a board, `name` what tells it apart from the others, and its figure on the tasks that are asked about.

    `value` is a share, `half` half of its interval over seeds.
    """

    board: Board
    row: Row
    name: str
    value: float
    half: float | None


@dataclass(frozen=True)
class LeftOut:
    """What was not compared, and why."""

    names: tuple[str, ...]
    reason: str


@dataclass
class Answer:
    """What is known of the methods on `tasks`, by a metric.

    Attributes:
        name: the data set, or `VTAB-1k`, and what tells it from another answer of that name.
        highest: the contender with the highest figure.
        level: those that are not told apart from it, the highest first.
        behind: those that are lower by more than the noise, the highest first.
        untold: those of which nothing tells whether they are lower; `tellings` has why.
        sure: whether it is higher than each of the others also after correction for so many comparisons.
        tellings: by what each but the highest was compared with it, by name.
        cheapest: by cost (`cheapest.COSTS`), among the highest and `level`; a cost that none has is not there.
        images: the number of test images, of several tasks the least; None where a record does not say it.
        left_out: what was not compared, and why.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str
    highest: Contender
    level: list[Contender] = field(default_factory=list)
    behind: list[Contender] = field(default_factory=list)
    untold: list[Contender] = field(default_factory=list)
    sure: bool = False
    tellings: dict[str, Telling] = field(default_factory=dict)
    cheapest: dict[str, Cheapest] = field(default_factory=dict)
    images: int | None = None
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def alike(self) -> list[Contender]:
        """The highest, and those that are not told apart from it."""
        return [self.highest, *self.level]

    @property
    def contenders(self) -> list[Contender]:
        """All that have a figure."""
        return [*self.alike, *self.behind, *self.untold]

    @property
    def known(self) -> list[Telling]:
        """By what those were compared with the highest that could be."""
        return [self.tellings[contender.name] for contender in (*self.level, *self.behind)]

    @property
    def taken(self) -> Contender:
        """The one to take: of those that are not told apart the cheapest (`cheapest.recommended`)."""
        row = recommended([contender.row for contender in self.alike], self.tasks)
        return next(contender for contender in self.alike if contender.row is row)

    @property
    def least(self) -> float | None:
        """About which difference of two figures of one seed is told apart, a share; None where none is known."""
        counts = any(run.counts(self.metric) for run in self.highest.row.all_runs())
        if not counts or self.images is None or len(self.tasks) > 1:
            return None
        return least_told_apart(self.highest.value, self.images)

    @property
    def seeds(self) -> tuple[int, int]:
        """The fewest and the most seeds that a contender has on a task."""
        numbers = [len(contender.row.runs[task]) for contender in self.contenders for task in self.tasks]
        return min(numbers), max(numbers)


def answers(boards: Sequence[Board], runs: Sequence[Run]) -> list[Answer]:
    """An answer for all of VTAB where a method has all, then for each data set, those with most contenders first.

    Args:
        boards: with the rows that are compared.
        runs: all that were read, of which some are on no board.
    """
    questions: dict[tuple[object, ...], tuple[str, tuple[str, ...], list[Board]]] = {}
    for board in boards:
        several = [VTAB_TASKS] if board.vtab and any(not row.missing(VTAB_TASKS) for row in board.rows) else []
        for tasks in [*several, *((task,) for task in board.tasks)]:
            name = "VTAB-1k" if len(tasks) > 1 else tasks[0]
            key = (name, board.metric, _rest_of(board.basis), splits_of(board, tasks))
            questions.setdefault(key, (name, tuple(tasks), []))[2].append(board)
    found = [answer_of(name, tasks, contenders(its_boards, tasks)) for name, tasks, its_boards in questions.values()]
    ordered = sorted(found, key=lambda answer: (len(answer.tasks) == 1, -len(answer.contenders)))
    _tell_names_apart(ordered)
    for answer in ordered:
        answer.left_out = _left_out(answer, ordered, runs)
    return ordered


def _rest_of(basis: Setting) -> Setting:
    """What two boards must share for their rows to be compared on a task: all but the backbone and its input."""
    return tuple(pair for pair in basis if pair[0] not in _OF_BACKBONE)


def splits_of(board: Board, tasks: Sequence[str]) -> tuple[str, ...]:
    """The split of each task, which the runs of a board share."""
    split_by_task = {run.task: run.split for run in board.all_runs()}
    return tuple(split_by_task.get(task, "") for task in tasks)


def contenders(boards: Sequence[Board], tasks: Sequence[str]) -> list[Contender]:
    """The rows of these boards that have every one of the tasks, the highest first; no two of one name."""
    rows = [(board, row) for board in boards for row in board.rows if not row.missing(tasks)]
    several = len({_backbone(row) for _, row in rows}) > 1
    names = [f"{row.label} on {_backbone(row)}" if several else row.label for _, row in rows]
    same = Counter(names)
    for i, (board, _) in enumerate(rows):
        if same[names[i]] > 1:
            others = [dict(rows[j][0].basis) for j in range(len(rows)) if names[j] == names[i] and j != i]
            differing = [v for k, v in board.basis if any(other[k] != v for other in others)]
            names[i] = f"{names[i]} ({'; '.join(differing)})" if differing else names[i]
    means = [mean_of(board, row, tasks) for board, row in rows]
    unordered = [
        Contender(board, row, name, mean.value, mean.half)
        for (board, row), name, mean in zip(rows, names, means, strict=True)
        if mean.value is not None
    ]
    return sorted(unordered, key=lambda contender: -contender.value)


def mean_of(board: Board, row: Row, tasks: Sequence[str]) -> Mean:
    """The mean over the tasks, on all of VTAB that of the groups' means."""
    whole_vtab = board.vtab and set(tasks) == set(VTAB_TASKS)
    return board.grouped(row, False) if whole_vtab else board.mean(row, tasks, False)


def _backbone(row: Row) -> str:
    return next(run.backbone for run in row.all_runs())


def answer_of(name: str, tasks: Sequence[str], compared: Sequence[Contender]) -> Answer:
    """Compares the highest with each of the others.

    Args:
        compared: at least one, the highest first.
    """
    highest, others = compared[0], compared[1:]
    metric = highest.board.metric
    answer = Answer(name, tuple(tasks), metric, highest, images=_images(compared, tasks))
    for other in others:
        telling = tell(highest.row, other.row, tasks, metric)
        answer.tellings[other.name] = telling
        group = answer.untold if telling.p is None else answer.behind if telling.apart else answer.level
        group.append(other)
    answer.sure = bool(answer.behind) and not (answer.level or answer.untold) and _holds_corrected(compared, answer)
    rows = [contender.row for contender in answer.alike]
    for cost in COSTS:
        least = cheapest(rows, tasks, cost)
        if least is not None:
            answer.cheapest[cost] = least
    return answer


def _holds_corrected(compared: Sequence[Contender], answer: Answer) -> bool:
    """Whether the highest differs from each of the others also after correction for all comparisons (Holm).

    They are those of the table of differences: every two, or of many, each with the highest.
    """
    p_values = [answer.tellings[other.name].p for other in compared[1:]]
    own = len(p_values)
    if len(compared) <= _ALL_PAIRS:
        for i, first in enumerate(compared[1:], 1):
            others = compared[i + 1 :]
            p_values += [tell(first.row, other.row, answer.tasks, answer.metric).p for other in others]
    corrected = holm_corrected([1.0 if p is None else p for p in p_values])
    return all(p < ALPHA for p in corrected[:own])


def _images(compared: Sequence[Contender], tasks: Sequence[str]) -> int | None:
    """The least number of test images of a task; None where some record does not say it."""
    runs = [run for contender in compared for task in tasks for run in contender.row.runs[task]]
    numbers = [run.images_behind(compared[0].board.metric) for run in runs]
    return None if None in numbers else min(number for number in numbers if number is not None)


def _tell_names_apart(answers_in_order: Sequence[Answer]) -> None:
    """Names of answers that are not the first of their name say in what they differ: the split, what was trained on."""
    first_of_name: dict[str, Answer] = {}
    for answer in answers_in_order:
        first = first_of_name.setdefault(answer.name, answer)
        if first is answer:
            continue
        board, other = answer.highest.board, dict(first.highest.board.basis)
        parts = [f"{k} {v}" for k, v in _rest_of(board.basis) if other[k] != v]
        if answer.metric != first.metric:
            parts.append(answer.metric)
        if len(answer.tasks) == 1 and splits_of(board, answer.tasks) != splits_of(first.highest.board, first.tasks):
            parts.append(f"split {splits_of(board, answer.tasks)[0]}")
        answer.name = f"{answer.name}, {', '.join(parts) or 'other splits'}"


def _left_out(answer: Answer, every: Sequence[Answer], runs: Sequence[Run]) -> list[LeftOut]:
    """Methods that have no figure in the answer, by why."""
    if len(answer.tasks) > 1:
        return []
    (task,) = answer.tasks
    there = {run.method for contender in answer.contenders for run in contender.row.all_runs()}
    alike = [other for other in every if other.metric == answer.metric]
    elsewhere = {run.method for other in alike for c in other.contenders for run in c.row.all_runs()}
    of_task = [run for run in runs if run.task == task and run.method not in there]
    reasons: dict[str, dict[str, None]] = defaultdict(dict)
    for run in of_task:
        reasons[_why_not(run, answer)][run.method] = None
    without = sorted(elsewhere - there - {run.method for run in of_task})
    left_out = [LeftOut(tuple(names), reason) for reason, names in reasons.items()]
    return [*left_out, LeftOut(tuple(without), "no run on it")] if without else left_out


def _why_not(run: Run, answer: Answer) -> str:
    if run.status != "complete":
        return "failed" if run.status in ("failed", "refused") else "not complete"
    if answer.metric not in run.metrics:
        return f"no {answer.metric}"
    return "on another split, or trained on other images"
