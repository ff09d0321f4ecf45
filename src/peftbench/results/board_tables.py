"""What a report says of one board, as plain tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from peftbench.common.amounts import count, plural, seconds, size
from peftbench.results import published
from peftbench.results.board import FLAT, MEAN, Board, Mean, Row
from peftbench.results.chosen import settings_by_arm
from peftbench.results.difference_tables import difference_tables
from peftbench.results.settings import OWN
from peftbench.results.task_results import short
from peftbench.results.text_table import NAMED, TextTable, some
from peftbench.results.validation import is_of_test_images, validation_metric

_COSTS = ("parameters", "head", "train", "step", "memory")
_ANYWHERE = ("parameters", "head")  # alike on every machine


def board_tables(board: Board, number: int, incomplete: bool) -> list[TextTable]:
    """The tables of one board, that of means and costs first.

    Args:
        number: how many boards stand before it.
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    tables = [means_table(board, number, incomplete)]
    if board.tried:
        tables.append(settings_table(board))
    if len(board.tasks) > 1 or board.vtab:
        tables.append(tasks_table(board))
    shifted = shifted_table(board)
    if shifted.rows:
        tables.append(shifted)
    if len(board.rows) > 1:
        tables += difference_tables(board)
    if board.vtab:
        tables += _published(board)
    return tables


def title(board: Board) -> str:
    """What the board's runs share, in a line."""
    basis = dict(board.basis)
    weights = f", weights {basis['weights']}" if basis["weights"] != "hub" else ""
    data = "VTAB-1k" if board.vtab else plural(len(board.tasks), "data set")
    split = "" if basis["split"] == OWN else f", split {basis['split']}"
    metric = "" if board.metric == "test/accuracy" else f", {board.metric}"
    return f"{basis['backbone']}{weights}, {basis['input']}, trained on {basis['trained on']}: {data}{split}{metric}"


def means_table(board: Board, number: int, incomplete: bool) -> TextTable:
    """Means over tasks and what they cost; the arguments are those of `board_tables`."""
    several_tasks = len(board.tasks) > 1 or board.vtab
    names = list(board.means(board.rows[0], incomplete))
    beside = replace(board, metric=board.beside) if board.beside else None
    columns = [("method", False), ("seeds", True)]
    columns += [(f"{name if several_tasks else board.tasks[0]} %", True) for name in names]
    if beside:
        columns.append((f"{short(beside.metric)} %", True))
    columns += [(name, True) for name in ("params", "head", "train", "step", "peak mem")]
    columns.append(("times", False))
    choices = any(row.choice.by for row in board.rows)
    if choices:
        columns.append(("setting", False))
    table = TextTable(f"Apart: {title(board)}" if number else title(board), columns)
    if board.apart:
        table.notes.append(f"This board stands apart from the boards before: {board.apart}.")
    for row in board.rows:
        means = list(board.means(row, incomplete).values())
        if beside:
            means.append(beside.mean(row, board.tasks, incomplete))
        table.rows.append([row.label, row.seeds, *map(in_per_cent, means), *_costs(row)])
        table.values.append([None, None, *(mean.value for mean in means), *_cost_values(row), None])
        if choices:
            table.rows[-1].append(str(row.choice) or "–")
            table.values[-1].append(None)
    table.notes += _notes(board, incomplete)
    return table


def _costs(row: Row) -> list[str]:
    """Parameters, head, training and step time, memory, and what kind of times these are."""
    counts = [_known(row.cost("parameters"), count), _known(row.cost("head"), count)]
    if len(row.machines) > 1:
        return [*counts, "–", "–", "–", plural(len(row.machines), "machine")]
    step = _known(row.cost("step"), lambda value: f"{1000 * value:.1f} ms")
    return [*counts, _known(row.cost("train"), seconds), step, _known(row.cost("memory"), size), row.times or "live"]


def _cost_values(row: Row) -> list[float | None]:
    """The same as numbers: counts, seconds, bytes."""
    return [row.cost(name) if len(row.machines) == 1 or name in _ANYWHERE else None for name in _COSTS]


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def in_per_cent(mean: Mean, failed: int = 0) -> str:
    """`91.2 ± 0.4`; `*` marks a mean over fewer tasks than there are, `†` failed runs."""
    fewer = "*" if mean.missing else ""
    dagger = "†" if failed else ""
    if mean.value is None:
        return dagger or f"–{fewer}"
    half = "" if mean.half is None else f" ± {100 * mean.half:.1f}"
    return f"{100 * mean.value:.1f}{half}{fewer}{dagger}"


def _notes(board: Board, incomplete: bool) -> list[str]:
    notes = ["± is half of the 95 % interval over seeds (t); a figure without it has one seed, or a task with one."]
    notes += _missing_tasks(board, incomplete)
    notes += _on_settings(board)
    failed = sum(sum(row.failed.values()) for row in board.rows)
    if failed:
        runs = plural(failed, "run")
        notes.append(f"† marks cells in which runs of these settings failed, {runs} in all; the means leave them out.")
    machines = sorted({machine for row in board.rows for machine in row.machines})
    if len(machines) > 1:
        notes.append(
            f"Times and memory are of {len(machines)} machines, and can be compared within one: {some(machines)}."
        )
    measures = sorted({run.costs.measure for run in board.all_runs()} - {""})
    if len(measures) > 1:
        notes.append(f"The runs measure memory in {len(measures)} ways: {some(measures)}.")
    if any(row.times for row in board.rows):
        notes.append("Times from kept taps leave out what filling them took; runs trained together share their times.")
    protocols = sorted({row.tuned for row in board.rows} - {""})
    notes += [f"A protocol chose settings on validation images, namely {protocol}." for protocol in protocols[:NAMED]]
    if protocols and any(not row.tuned for row in board.rows):
        notes.append("Rows without a protocol have one setting for all tasks; the records do not say how it was found.")
    if board.twice:
        runs = plural(len(board.twice), "further run")
        ids = some([run.id for run in board.twice])
        notes.append(f"The means count a setting and seed once, and leave out {runs} ({ids}).")
    return notes


def _missing_tasks(board: Board, incomplete: bool) -> list[str]:
    notes = []
    remedy = "" if incomplete else "; incomplete=true gives the mean of the others"
    for row in board.rows:
        missing = board.means(row, incomplete)[FLAT].missing
        if missing:
            notes.append(f"* {row.label} lacks {plural(len(missing), 'task')} ({some(missing)}){remedy}.")
    return notes[:NAMED]


def _on_settings(board: Board) -> list[str]:
    """What the figures are worth where a method has several settings."""
    if board.tried:
        return [
            "Of a method with several settings the board shows the one that is best on validation images. Where there "
            "are none, it is the best on test images, and its figures are too high. settings=all shows every setting."
        ]
    if is_of_test_images(board.metric) and any(len(s) > 1 for s in settings_by_arm(board.rows).values()):
        return ["To take the best of a method's settings by these figures is to choose on test images: optimistic."]
    return []


def settings_table(board: Board) -> TextTable:
    """The settings of methods that have several: validation alone, since it is what may choose among them."""
    metric = validation_metric(board.metric, board.primary)
    columns = [("method", False), ("seeds", True), ("tasks", True), (f"{metric} %", True), ("shown", False)]
    table = TextTable("Settings that were tried", columns)
    for tried in board.tried:
        value = "–" if tried.validation is None else f"{100 * tried.validation:.1f}"
        shown = (tried.row.choice.by or "yes") if tried.shown else "no: fewer tasks" if tried.narrower else "no"
        table.rows.append([tried.row.label, tried.row.seeds, str(tried.tasks), value, shown])
        table.values.append([None, None, tried.tasks, tried.validation, None])
    return table


def tasks_table(board: Board) -> TextTable:
    """A cell for every method and task."""
    name = short(board.metric)
    columns = [("method", False), *((task.removeprefix("vtab/"), True) for task in board.tasks)]
    table = TextTable(f"{name[0].upper()}{name[1:]} by task, %", columns)
    for row in board.rows:
        cells = [in_per_cent(board.cell(row, task), row.failed[task]) for task in board.tasks]
        table.rows.append([row.label, *cells])
    return table


def shifted_table(board: Board) -> TextTable:
    """Accuracy on shifted test sets, for the rows that have any, averaged over tasks."""
    names = sorted({name for run in board.all_runs() for name in run.metrics if _is_shifted_accuracy(name)})
    names.sort(key=lambda name: name != "ood/accuracy")
    columns = [("method", False), ("test %", True), *((_shift(name), True) for name in names)]
    table = TextTable("On shifted test sets, %", columns)
    for row in board.rows:
        shifted = [run for run in row.all_runs() if "ood/accuracy" in run.metrics]
        if shifted:
            values = [[run.metrics[name] for run in shifted if name in run.metrics] for name in (board.metric, *names)]
            table.rows.append([row.label, *(f"{100 * sum(v) / len(v):.1f}" if v else "–" for v in values)])
    return table


def _is_shifted_accuracy(name: str) -> bool:
    return name.startswith("ood/") and name.endswith("accuracy") and "class_accuracy" not in name


def _shift(name: str) -> str:
    return "mean" if name == "ood/accuracy" else name.removeprefix("ood/").removesuffix("/accuracy")


def _published(board: Board) -> list[TextTable]:
    basis = dict(board.basis)
    rows, reason = published.beside(basis["backbone"], basis["weights"], basis["split"])
    if reason:
        return [TextTable("Published", [], notes=[f"No published numbers stand beside these: {reason}."])]
    methods = {row.method for row in board.rows}
    columns = [("method", False), ("params", True), ("natural %", True), ("specialized %", True)]
    columns += [("structured %", True), (f"{MEAN} %", True), ("source", False)]
    table = TextTable("Published, for orientation", columns)
    for row in rows:
        if row.method in methods:
            parameters = "–" if row.parameters is None else f"{row.parameters:g} M"
            figures = [f"{v:.1f}" for v in (row.natural, row.specialized, row.structured, row.mean)]
            table.rows.append([row.method, parameters, *figures, row.source])
    note = "They are from other code and other input pipelines; see the source before you compare the last digits."
    table.notes.append(note)
    return [table] if table.rows else []
