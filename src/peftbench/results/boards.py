"""Which runs stand together on a leaderboard and in a row of it, and what stands apart and why."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from peftbench.results.board import VTAB_TASKS, Board, Row
from peftbench.results.chosen import show_chosen
from peftbench.results.settings import Setting
from peftbench.results.summary import Run
from peftbench.results.validation import Trials, is_of_test_images

RowKey = tuple[str, Setting, str, str]  # method, setting, protocol, kind of times
_NAMED = 3  # tasks of another split that are named


def boards(runs: Sequence[Run], metric: str | None = None, every_setting: bool = False) -> list[Board]:
    """Leaderboards of all complete runs that have the metric, the one with most runs first.

    Args:
        metric: `test/AP`, say; None stands for the one that a run's task is judged by, on test images.
        every_setting: whether all settings of a method are shown; else, where the metric is of test images, the one
            that validation images choose.
    """
    counted = []
    trials = None if every_setting else Trials(runs)
    for basis, members in _comparable(runs):
        complete = [run for run in members if run.status == "complete"]
        if not complete:
            continue
        wanted = metric or f"test/{complete[0].primary}"  # runs of one basis have one task
        measured = [run for run in complete if wanted in run.metrics]
        if measured:
            failed = [run for run in members if run.status == "failed"]
            counted.append((len(measured), _board(basis, wanted, measured, failed, trials)))
    counted.sort(key=lambda item: -item[0])
    ranked = [board for _, board in counted]
    for i, board in enumerate(ranked):
        if i > 0:
            board.apart = _reason_apart(board, ranked[:i])
    return ranked


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
    board = Board(basis, metric, tuple(ordered), *_rows(complete, failed))
    if trials is not None and is_of_test_images(metric):
        show_chosen(board, trials)
    board.sort_rows()
    return board


def _rows(complete: Sequence[Run], failed: Sequence[Run]) -> tuple[list[Row], list[Run]]:
    """Runs by method, setting and kind of times, and runs that are there twice.

    What the data sets choose parts rows only where it must.
    """
    clashing = _clashing(complete)
    rows: dict[RowKey, Row] = {}
    twice = []

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
        more = "ood/accuracy" in run.metrics.keys() - runs[at].metrics.keys()  # the same run, with shifted test sets
        if more:
            runs[at], run = run, runs[at]
        twice.append(run)
    for run in failed:
        alike = [row for row_key, row in rows.items() if row_key[:3] == key(run)[:3]]  # its kind of times is not known
        if alike:
            alike[0].failed[run.task] += 1
    _label(list(rows.values()))
    return list(rows.values()), twice


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
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_method[row.method].append(row)
    for method, alike in by_method.items():
        keys = _differing_keys(alike)
        protocols_differ = len({row.tuned for row in alike}) > 1
        times_differ = len({row.times for row in alike}) > 1
        for row in alike:
            setting = dict(row.setting)
            parts = [f"{_shortened(key, keys)}={_plain(setting[key])}" for key in keys if key in setting]
            if protocols_differ and row.tuned:
                parts.append(row.tuned.partition(" (")[0])
            if times_differ and row.times:
                parts.append(row.times)
            row.label = f"{method} {', '.join(parts)}" if parts else method


def _differing_keys(rows: Sequence[Row]) -> list[str]:
    """Keys of the settings whose values are not the same in all rows, sorted."""
    settings = [dict(row.setting) for row in rows]
    keys = {key for setting in settings for key in setting}
    return sorted(key for key in keys if len({setting.get(key, "") for setting in settings}) > 1)


def _shortened(key: str, among: Sequence[str]) -> str:
    """The last part of a dotted key, or all of it where another key ends alike."""
    last = key.rpartition(".")[2]
    return key if sum(k.rpartition(".")[2] == last for k in among) > 1 else last


def _plain(value: str) -> str:
    content = json.loads(value)
    return f"{content:g}" if isinstance(content, float) else str(content)


def _reason_apart(board: Board, before: Sequence[Board]) -> str:
    """Why this board does not stand with the first that differs least from it."""

    def differing(other: Board) -> list[str]:
        other_basis = dict(other.basis)
        return [key for key, value in board.basis if other_basis[key] != value]

    nearest = min(before, key=lambda other: len(differing(other)))
    keys = differing(nearest)
    if not keys:
        return f"another split of the same task ({_other_splits(board, nearest)})"
    basis, other_basis = dict(board.basis), dict(nearest.basis)
    if "backbone" in keys:
        return f"another backbone ({basis['backbone']}, not {other_basis['backbone']})"
    if keys == ["fingerprint"]:
        mine, other = basis["fingerprint"], other_basis["fingerprint"]
        return f"other weights under the same name (fingerprint {mine}, not {other})"
    return "; ".join(f"{key}: {basis[key]}, not {other_basis[key]}" for key in keys if key != "fingerprint")


def _other_splits(board: Board, nearest: Board) -> str:
    """`digits: digits (hash), not digits (hash)`, for some of the tasks."""
    splits = {run.task: run.split for run in board.all_runs()}
    nearest_splits = {run.task: run.split for run in nearest.all_runs()}
    shared = [f"{t}: {split}, not {nearest_splits[t]}" for t, split in splits.items() if t in nearest_splits]
    named = "; ".join(shared[:_NAMED])
    return f"{named}; …" if len(shared) > _NAMED else named
