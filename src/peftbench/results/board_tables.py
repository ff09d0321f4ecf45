"""What a report says of one board, as plain tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from peftbench.common.amounts import count, plural, seconds, size
from peftbench.results import published
from peftbench.results.board import FLAT, MEAN, Board, Mean, Row
from peftbench.results.settings import OWN
from peftbench.results.stats import Difference
from peftbench.results.task_results import short
from peftbench.results.text_table import NAMED, TextTable, some

_COSTS = ("parameters", "head", "train", "step", "memory")
_ANYWHERE = ("parameters", "head")  # alike on every machine


def board_tables(board: Board, number: int, incomplete: bool) -> list[TextTable]:
    """The tables of one board, that of means and costs first.

    Args:
        number: how many boards stand before it.
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    tables = [means_table(board, number, incomplete)]
    if len(board.tasks) > 1 or board.vtab:
        tables.append(tasks_table(board))
    shifted = shifted_table(board)
    if shifted.rows:
        tables.append(shifted)
    if len(board.rows) > 1:
        tables.append(pairs_table(board))
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
    table = TextTable(f"Apart: {title(board)}" if number else title(board), columns)
    if board.apart:
        table.notes.append(f"This board stands apart from the boards before: {board.apart}.")
    for row in board.rows:
        means = list(board.means(row, incomplete).values())
        if beside:
            means.append(beside.mean(row, board.tasks, incomplete))
        table.rows.append([row.label, row.seeds, *map(in_per_cent, means), *_costs(row)])
        table.values.append([None, None, *(mean.value for mean in means), *_cost_values(row), None])
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


def pairs_table(board: Board) -> TextTable:
    """Paired differences, and in words whether they are more than noise."""
    columns = [("first", False), ("second", False), ("difference", True), ("paired over", False)]
    columns += [("p (t, Holm)", True), ("p (Wilcoxon)", True), ("so", False)]
    table = TextTable(f"Differences between methods, points of {short(board.metric)}", columns)
    pairs = board.pairs()
    for first, second, difference, over in pairs:
        figures = [_points(difference), over, _p(difference.holm), _p(difference.wilcoxon)]
        table.rows.append([first.label, second.label, *figures, _verdict(first, difference)])
    if len(board.rows) > 2 and len(pairs) < len(board.rows) * (len(board.rows) - 1) / 2:
        table.notes.append("The report compares each of this many methods with the first, where they share tasks.")
    table.notes.append(
        "A pair is a task with its seeds averaged where two methods share three tasks, else a task and seed; p-values "
        "are corrected for their number (Holm)."
    )
    return table


def _points(difference: Difference) -> str:
    """`+1.2 ± 0.4` points."""
    half = "" if difference.half is None else f" ± {100 * difference.half:.1f}"
    return f"{100 * difference.mean:+.1f}{half}"


def _verdict(first: Row, difference: Difference) -> str:
    words = {
        "better": f"{first.label} is better",
        "worse": f"{first.label} is worse",
        "no telling": "too few pairs to tell",
        "equal": "the same in every pair",
    }
    return words.get(difference.verdict, difference.verdict)


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


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
