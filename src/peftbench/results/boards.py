"""Which runs stand together on a leaderboard and in a row of it, and what stands apart and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from peftbench.results.board import VTAB_TASKS, Board, Row
from peftbench.results.board_words import reason_apart, set_words
from peftbench.results.chosen import show_chosen
from peftbench.results.row_names import Trait, names_of
from peftbench.results.settings import Setting
from peftbench.results.summary import Run
from peftbench.results.validation import Trials, is_of_test_images

RowKey = tuple[str, Setting, str, str]  # method, setting, protocol, kind of times


def boards(
    runs: Sequence[Run], metric: str | None = None, every_setting: bool = False, joint: bool = False
) -> list[Board]:
    """Leaderboards of all complete runs that have the metric: one for VTAB, and one for each other data set.

    So what one data set shows does not depend on what was run on another. Boards that differ in their data set alone
    have one number of `group` and stand beside each other; the group with most runs comes first, and in it the data set
    with most runs.

    Args:
        metric: `test/AP`, say; None stands for the one that a run's task is judged by, on test images.
        every_setting: whether all settings of a method are shown; else, where the metric is of test images, the one
            that validation images choose.
        joint: whether data sets other than VTAB's share a board, as means over them need it.
    """
    groups: list[list[tuple[int, Board]]] = []
    trials = None if every_setting else Trials(runs)
    for basis, members in _comparable(runs):
        group = []
        for of_data_set in _by_data_set(basis, members, joint):
            complete = [run for run in of_data_set if run.status == "complete"]
            if not complete:
                continue
            wanted = metric or f"test/{complete[0].primary}"  # runs of one basis have one task
            measured = [run for run in complete if wanted in run.metrics]
            if measured:
                failed = [run for run in of_data_set if run.status == "failed"]
                group.append((len(measured), _board(basis, wanted, measured, failed, trials)))
        if group:
            groups.append(sorted(group, key=lambda item: -item[0]))
    groups.sort(key=lambda group: -sum(count for count, _ in group))
    ranked = [[board for _, board in group] for group in groups]
    for i, beside in enumerate(ranked):
        for board in beside:
            board.group = i
            board.apart = reason_apart(beside, ranked[:i]) if i > 0 else ""
    set_words(ranked)
    return [board for beside in ranked for board in beside]


def _by_data_set(basis: Setting, runs: Sequence[Run], joint: bool) -> list[list[Run]]:
    """The runs that one board may show."""
    if joint or ("data", "VTAB-1k") in basis:
        return [list(runs)]
    parts: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.task):
        parts[run.task].append(run)
    return list(parts.values())


def _comparable(runs: Iterable[Run]) -> list[tuple[Setting, list[Run]]]:
    """Complete and failed runs of one basis and one split of each task; the split with most runs comes first."""
    by_basis: dict[Setting, list[Run]] = defaultdict(list)
    for run in runs:
        if run.status in ("complete", "failed"):
            by_basis[run.basis].append(run)
    parts: dict[tuple[Setting, int], list[Run]] = defaultdict(list)
    for basis, members in by_basis.items():
        splits: dict[str, Counter[str]] = defaultdict(Counter)
        for run in members:
            splits[run.task][run.split] += 1
        order = {task: sorted(counts, key=lambda split: (-counts[split], split)) for task, counts in splits.items()}
        for run in members:
            parts[basis, order[run.task].index(run.split)].append(run)
    return [(basis, members) for (basis, _), members in parts.items()]


def _board(basis: Setting, metric: str, complete: Sequence[Run], failed: Sequence[Run], trials: Trials | None) -> Board:
    tasks = {run.task for run in complete}
    ordered = [task for task in VTAB_TASKS if task in tasks]
    ordered += sorted(tasks - set(ordered))
    rows, twice, alone = _rows(complete, failed)
    board = Board(basis, metric, tuple(ordered), rows, twice, failed=alone)
    if trials is not None and is_of_test_images(metric):
        show_chosen(board, trials)
    board.sort_rows()
    return board


def _rows(complete: Sequence[Run], failed: Sequence[Run]) -> tuple[list[Row], list[Run], list[Run]]:
    """Runs by method, setting and kind of times; runs that are there twice; and failed runs of none of these rows.

    What the data sets choose parts rows only where it must.
    """
    clashing = _clashing(complete)
    rows: dict[RowKey, Row] = {}
    twice, alone = [], []

    def key(run: Run) -> RowKey:
        setting = run.setting
        if (run.method, run.setting) in clashing:
            setting += run.batch
        return run.method, setting, run.tuned, run.times

    for run in complete:
        row = rows.setdefault(key(run), Row(*key(run)))
        runs = row.runs[run.task]
        at = next((i for i, other in enumerate(runs) if other.seed == run.seed), None)
        if at is None:
            runs.append(run)
            continue
        more = (
            f"ood/{run.primary}" in run.metrics.keys() - runs[at].metrics.keys()
        )  # the same run, with shifted test sets
        if more:
            runs[at], run = run, runs[at]
        twice.append(run)
    for run in failed:
        alike = [row for row_key, row in rows.items() if row_key[:3] == key(run)[:3]]  # its kind of times is not known
        if alike:
            alike[0].failed[run.task] += 1
        else:
            alone.append(run)
    _label(list(rows.values()))
    return list(rows.values()), twice, alone


def _clashing(runs: Sequence[Run]) -> set[tuple[str, Setting]]:
    """Methods and settings of which several runs have the same task and seed."""
    seen: set[tuple[RowKey, str, int]] = set()
    clashing = set()
    for run in runs:
        place = ((run.method, run.setting, run.tuned, run.times), run.task, run.seed)
        if place in seen:
            clashing.add((run.method, run.setting))
        seen.add(place)
    return clashing


def _label(rows: Sequence[Row]) -> None:
    """Names each row: the method, and of its settings what tells its rows apart."""
    names = names_of([Trait(row.method, row.setting, row.tuned, row.times) for row in rows])
    for row, name in zip(rows, names, strict=True):
        row.label, row.full_label = name.short, name.full
