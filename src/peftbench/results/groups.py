"""Boards that differ in their data set alone, side by side: a line for each method, a column for each data set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from peftbench.common.amounts import plural
from peftbench.results.board import Arm, Board, Row, arm_of
from peftbench.results.row_names import Name, Trait, names_of, plain_setting

_UNNAMED = Name("", "")
_SHOWN = 3  # settings that are named where they differ between data sets


@dataclass
class Line:
    """What is compared in a line of a table: `rows` by the number of the board that has it."""

    arm: Arm
    trait: Trait
    rows: dict[int, Row] = field(default_factory=dict)
    name: Name = _UNNAMED

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.name.short

    @property
    def seeds(self) -> str:
        """How many seeds a data set has: `3`, or `2–3` where they differ."""
        counts = {len(runs) for row in self.rows.values() for runs in row.runs.values()} or {0}
        return f"{min(counts)}–{max(counts)}" if len(counts) > 1 else str(min(counts))

    def failed_alone(self, board: Board, task: str) -> int:
        """How many of its runs failed on a task that the board has no row of it for."""
        return sum(
            run.task == task
            and arm_of(run.method, run.setting) == self.arm
            and self.trait.setting in (self.arm[1], run.setting)
            for run in board.failed
        )


@dataclass
class Group:
    """Boards of one backbone and metric; there are several where there are several data sets and no mean over them."""

    boards: Sequence[Board]
    lines: list[Line]

    @property
    def several(self) -> bool:
        """Whether tables need to say which data set they are of."""
        return len(self.boards) > 1

    @property
    def first(self) -> Board:
        """A board that stands for all in what they share."""
        return self.boards[0]

    @property
    def data_sets(self) -> list[str]:
        """The tasks of all boards."""
        return [task for board in self.boards for task in board.tasks]

    def all_rows(self) -> Iterator[tuple[Board, Row]]:
        """The rows of every board, a board after the other."""
        for board in self.boards:
            for row in board.rows:
                yield board, row


def groups_of(boards: Sequence[Board]) -> list[Group]:
    """The boards in their order, those of one group together."""
    return [
        Group(of_group, lines_of(of_group))
        for of_group in (list(members) for _, members in groupby(boards, lambda board: board.group))
    ]


def lines_of(boards: Sequence[Board]) -> list[Line]:
    """The rows of several boards, those of one method in one line, in the order of the first board that has them.

    Where a board has one setting of each method, a line may hold another setting for another board: figures of two
    columns are not compared. Elsewhere each setting has a line.
    """
    by_arm = all(max(Counter(_by_arm(row) for row in board.rows).values(), default=1) == 1 for board in boards)
    lines: dict[Hashable, Line] = {}
    for at, board in enumerate(boards):
        for row in board.rows:
            key = _by_arm(row) if by_arm else _by_setting(row)
            setting, tuned = (row.arm[1], "") if by_arm else (row.setting, row.tuned)
            line = lines.setdefault(key, Line(row.arm, Trait(row.method, setting, tuned, row.times)))
            line.rows[at] = row
    _name(list(lines.values()))
    return list(lines.values())


def _by_arm(row: Row) -> Hashable:
    return row.arm, row.times


def _by_setting(row: Row) -> Hashable:
    return row.method, row.setting, row.tuned, row.times


def _name(lines: Sequence[Line]) -> None:
    """As the rows are called where all boards call them the same; else by what tells the method's lines apart."""
    by_method: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_method[line.trait.method].append(line)
    for alike in by_method.values():
        names = [{Name(row.label, row.full_label) for row in line.rows.values()} for line in alike]
        agreed = [next(iter(of_line)) for of_line in names if len(of_line) == 1]
        if len(agreed) < len(alike) or len(set(agreed)) < len(alike):
            agreed = names_of([line.trait for line in alike])
        for line, name in zip(alike, agreed, strict=True):
            line.name = name


def differing_settings(group: Group) -> list[str]:
    """In words, in which settings the data sets of a line were run where they differ: `lr=0.1 on a, lr=0.2 on b`."""
    methods: dict[str, list[str]] = defaultdict(list)
    for line in group.lines:
        settings = {group.boards[at].tasks[0]: dict(row.setting) for at, row in line.rows.items()}
        keys = {key for setting in settings.values() for key in setting}
        differing = [key for key in keys if len({setting.get(key) for setting in settings.values()}) > 1]
        differing.sort(key=lambda key: (sum(key not in setting for setting in settings.values()), key))
        if differing:
            words = _by_task(settings, differing[:_SHOWN])
            more = len(differing) - _SHOWN
            methods[f"{words}; and {plural(more, 'more setting')}" if more > 0 else words].append(line.label)
    return [f"{', '.join(labels)}: {words}" for words, labels in methods.items()]


def _by_task(settings: Mapping[str, Mapping[str, str]], keys: Sequence[str]) -> str:
    """`lr=0.001, epochs=20 on digits; lr=0.01 on photos`."""
    words = []
    for task, setting in settings.items():
        values = [plain_setting(key, setting[key]) for key in keys if key in setting]
        words.append(f"{', '.join(values) or 'none of these'} on {task}")
    return "; ".join(words)
