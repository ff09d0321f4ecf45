"""Which method: per data set the highest, what is not told apart from it, the cheapest of these, and what was left out.

It is the data alone; `answer_text.py` says it in words. Backbones are compared where data set, split and metric are the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from peftbench.results.board import Board, Row
from peftbench.results.cheapest import COSTS, Cheapest, cheapest, recommended
from peftbench.results.chosen import ON_TEST, settings_by_arm
from peftbench.results.left_out import LeftOut, left_out
from peftbench.results.questions import Contender, Question, contenders, questions
from peftbench.results.stats import ALPHA, holm_corrected
from peftbench.results.summary import Run
from peftbench.results.telling import Telling, least_told_apart, tell
from peftbench.results.validation import is_of_test_images


@dataclass
class Answer:
    """What is known of the methods on `tasks`, by a metric.

    Attributes:
        name: the data set, or `VTAB-1k`, and what tells it from another answer of that name.
        highest: the contender with the highest figure.
        level: those that are not told apart from it, the highest first.
        behind: those that are lower by more than the noise, the highest first.
        untold: those of which nothing tells whether they are lower; `tellings` has why.
        not_corrected: those of `behind` of which that does not hold after correction for so many comparisons.
        tellings: by what each but the highest was compared with it, by name.
        cheapest: by cost (`cheapest.COSTS`), among the highest and `level`.
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
    not_corrected: list[Contender] = field(default_factory=list)
    tellings: dict[str, Telling] = field(default_factory=dict)
    cheapest: dict[str, Cheapest] = field(default_factory=dict)
    images: int | None = None
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def sure(self) -> bool:
        """Whether the highest is above each of the others also after correction for so many comparisons."""
        return bool(self.behind) and not (self.level or self.untold or self.not_corrected)

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

    def has_cheapest(self, cost: str) -> bool:
        """Whether the cost compares two at least of those that are alike; of one alone it would say nothing."""
        return len(self.cheapest[cost].compared) > 1

    def cost_the_same(self, cost: str) -> bool:
        """Whether all that the cost compares are within a tenth, so that none is the cheapest."""
        return len(self.cheapest[cost].rows) == len(self.cheapest[cost].compared)

    def names(self, rows: Sequence[Row]) -> list[str]:
        """What the rows are called, in their order."""
        by_row = {id(contender.row): contender.name for contender in self.contenders}
        return [by_row[id(row)] for row in rows]

    def is_optimistic(self, contender: Contender) -> bool:
        """Whether its setting is the one of several that is best on test images, or may be."""
        if contender.row.choice.by == ON_TEST:
            return True
        rows = [other.row for other in self.contenders if other.board is contender.board]
        several = any(
            len(settings) > 1 and any(contender.row in rows for rows in settings)
            for settings in settings_by_arm(rows).values()
        )
        return several and is_of_test_images(self.metric)

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
    answered = [answer_to(question, contenders(question)) for question in questions(boards)]
    answered.sort(key=lambda answer: (len(answer.tasks) == 1, -len(answer.contenders)))
    for answer in answered:
        answer.left_out = not_compared(answer, answer.contenders, runs)
    return answered


def not_compared(answer: Answer, having: Sequence[Contender], runs: Sequence[Run]) -> list[LeftOut]:
    """What has no figure on the tasks of the answer, and why.

    Args:
        having: what has one, whether or not the answer compares it.
        runs: all that were read.
    """
    pairs = {(run.method, run.backbone) for contender in having for run in contender.row.all_runs()}
    return left_out(answer.tasks, answer.metric, pairs, runs)


def answer_to(question: Question, compared: Sequence[Contender]) -> Answer:
    """Compares the highest with each of the others.

    Args:
        compared: at least one of `contenders(question)`, in their order.
    """
    highest, others = compared[0], compared[1:]
    tasks, metric = question.tasks, question.metric
    answer = Answer(question.name, tasks, metric, highest, images=_images(compared, tasks))
    for other in others:
        telling = tell(highest.row, other.row, tasks, metric)
        answer.tellings[other.name] = telling
        group = answer.untold if telling.p is None else answer.behind if telling.apart else answer.level
        group.append(other)
    answer.not_corrected = _not_corrected(compared, answer)
    rows = [contender.row for contender in answer.alike]
    answer.cheapest = {cost: cheapest(rows, tasks, cost) for cost in COSTS}
    return answer


def _not_corrected(compared: Sequence[Contender], answer: Answer) -> list[Contender]:
    """Those of `behind` that are not told apart after correction for all comparisons (Holm).

    They are those with the highest, and those in the boards' tables of differences, where these ask the same.
    """
    if not answer.behind:
        return []
    p_values = [_p(answer.tellings[other.name]) for other in compared[1:]]
    rows = {id(contender.row) for contender in compared[1:]}
    for board in {id(contender.board): contender.board for contender in compared}.values():
        if set(board.tasks) == set(answer.tasks):
            beside = [(first, second, difference.p) for first, second, difference, _ in board.pairs()]
            p_values += [p for first, second, p in beside if p is not None and {id(first), id(second)} <= rows]
    corrected = holm_corrected(p_values)
    by_name = {other.name: p for other, p in zip(compared[1:], corrected, strict=False)}
    return [other for other in answer.behind if by_name[other.name] >= ALPHA]


def _p(telling: Telling) -> float:
    return 1.0 if telling.p is None else telling.p


def _images(compared: Sequence[Contender], tasks: Sequence[str]) -> int | None:
    """The least number of test images of a task; None where some record does not say it."""
    runs = [run for contender in compared for task in tasks for run in contender.row.runs[task]]
    numbers = [run.images_behind(compared[0].board.metric) for run in runs]
    return None if None in numbers else min(number for number in numbers if number is not None)
