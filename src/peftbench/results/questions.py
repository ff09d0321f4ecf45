"""What may be asked of some boards: for each data set, and for several together, which rows compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from peftbench.results.board import VTAB_TASKS, Board, Mean, Row
from peftbench.results.settings import Setting
from peftbench.results.task_results import less_is_better

_OF_BACKBONE = ("backbone", "weights", "fingerprint", "input", "normalisation")


@dataclass
class Question:
    """Which method on `tasks`; the boards have one metric, one split of each task, and trained on the same images.

    `name` is the data set, `VTAB-1k`, or `all 3 tasks`, and what tells it from another question of that name.
    `backbones` has what each backbone is called, by `_backbone_of`, where the questions asked together have several.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str
    boards: list[Board]
    backbones: Mapping[Setting, str] = field(default_factory=dict)


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


def questions(boards: Sequence[Board], together: bool = False) -> list[Question]:
    """A question for each task of each split, and for all of VTAB where a row has all of it.

    Nothing is asked of a loss or another error, of which the highest is the worst.

    Args:
        together: whether all tasks of a metric are asked about together too, where a row has all; else VTAB alone.
    """
    asked: dict[Hashable, Question] = {}
    several = len({_backbone_of(board.basis) for board in boards}) > 1
    words = _words(boards) if several else {}
    for board in boards:
        if less_is_better(board.metric):
            continue
        for name, tasks in _groups(board, boards, together):
            if not any(not row.missing(tasks) for row in board.rows):
                continue
            key = (tasks, board.metric, rest_of(board.basis), _splits(board, tasks))
            asked.setdefault(key, Question(name, tasks, board.metric, [], words)).boards.append(board)
    _tell_names_apart(list(asked.values()))
    return list(asked.values())


def _groups(board: Board, boards: Sequence[Board], together: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from ((task, (task,)) for task in board.tasks)
    if together:
        alike = tuple(dict.fromkeys(task for b in boards if b.metric == board.metric for task in b.tasks))
        if len(alike) > 1:
            yield f"all {len(alike)} tasks", alike
    elif board.vtab:
        yield "VTAB-1k", VTAB_TASKS


def rest_of(basis: Setting) -> Setting:
    """What two boards must share for their rows to be compared on a task: all but the backbone and its input."""
    return tuple(pair for pair in basis if pair[0] not in _OF_BACKBONE)


def _backbone_of(basis: Setting) -> Setting:
    """The backbone and its input."""
    return tuple(pair for pair in basis if pair[0] in _OF_BACKBONE)


def _words(boards: Sequence[Board]) -> dict[Setting, str]:
    """As the user names each backbone; where two of a name differ, as the heading of the board does."""
    names = {_backbone_of(board.basis): run.backbone for board in boards for run in board.all_runs()}
    several = {name for name, number in Counter(names.values()).items() if number > 1}
    headings = {_backbone_of(board.basis): board.words for board in boards}
    return {key: headings[key] if name in several else name for key, name in names.items()}


def _splits(board: Board, tasks: Sequence[str]) -> tuple[str, ...]:
    """The split of each task, which the runs of a board share."""
    split_by_task = {run.task: run.split for run in board.all_runs()}
    return tuple(split_by_task[task] for task in tasks)


def _tell_names_apart(asked: Sequence[Question]) -> None:
    """Names of questions that are not the first of their name say in what they differ."""
    first_of_name: dict[str, Question] = {}
    for question in asked:
        first = first_of_name.setdefault(question.name, question)
        if first is question:
            continue
        board, other = question.boards[0], first.boards[0]
        other_basis = dict(other.basis)
        parts = [f"{key} {value}" for key, value in rest_of(board.basis) if other_basis[key] != value]
        if question.metric != first.metric:
            parts.append(question.metric)
        splits = zip(_splits(board, question.tasks), _splits(other, question.tasks), strict=True)
        parts += [f"split {mine}" for mine, its in splits if mine != its][:1]
        question.name = f"{question.name}, {', '.join(parts)}"


def contenders(question: Question) -> list[Contender]:
    """The rows that have every one of the tasks, the highest first, called `lora` or `lora on vit_nano`."""
    compared = []
    for board in question.boards:
        for row in board.rows:
            if not row.missing(question.tasks):
                mean = _mean(board, row, question.tasks)
                assert mean.value is not None
                backbone = question.backbones.get(_backbone_of(board.basis))
                name = f"{row.label} on {backbone}" if backbone else row.label
                compared.append(Contender(board, row, name, mean.value, mean.half))
    return sorted(compared, key=lambda contender: -contender.value)


def _mean(board: Board, row: Row, tasks: Sequence[str]) -> Mean:
    whole_vtab = board.vtab and set(tasks) == set(VTAB_TASKS)
    return board.grouped(row, False) if whole_vtab else board.mean(row, tasks, False)
