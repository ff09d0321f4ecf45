"""Further tables of a group of boards: settings, tasks, shifted test sets, published numbers."""

from __future__ import annotations

from peftbench.results import published
from peftbench.results.board import MEAN, Board
from peftbench.results.cells import head, in_per_cent, with_best
from peftbench.results.groups import Group
from peftbench.results.summary import Run
from peftbench.results.task_results import less_is_better, percent, short, unit
from peftbench.results.text_table import TextTable
from peftbench.results.validation import validation_metric


def settings_table(group: Group) -> TextTable:
    """The settings of methods that have several: validation alone, since it is what may choose among them."""
    metric = validation_metric(group.first.metric, group.first.primary)
    which = ("data set", False) if group.several else ("tasks", True)
    columns = [("method", False), ("seeds", True), which, (f"{metric} {unit(metric)}", True), ("shown", False)]
    table = TextTable("Settings that were tried", columns, label="settings")
    for board in group.boards:
        for tried in board.tried:
            value = "–" if tried.validation is None else f"{100 * tried.validation:.1f}"
            shown = (tried.row.choice.by or "yes") if tried.shown else "no: fewer tasks" if tried.narrower else "no"
            where = board.tasks[0] if group.several else str(tried.tasks)
            table.rows.append([tried.row.label, tried.row.seeds, where, value, shown])
            tasks = None if group.several else tried.tasks
            table.values.append([None, None, tasks, tried.validation, None])
    return table


def tasks_table(board: Board) -> TextTable:
    """A cell for every method and task."""
    name = short(board.metric)
    columns = [("method", False), *((head(board, task, ""), True) for task in board.tasks)]
    table = TextTable(f"{name[0].upper()}{name[1:]} by task, {unit(board.metric)}", columns, label="tasks")
    by_task = []
    for task in board.tasks:
        means = [board.cell(row, task) for row in board.rows]
        cells = [in_per_cent(mean, row.failed[task]) for mean, row in zip(means, board.rows, strict=True)]
        by_task.append(with_best(cells, [mean.value for mean in means], least=less_is_better(board.metric)))
    table.rows = [[row.label, *(cells[i] for cells in by_task)] for i, row in enumerate(board.rows)]
    if len(board.rows) > 1:
        table.notes.append("Bold is the best figure of a task; methods are compared over the tasks, and on none alone.")
    return table


def shifted_table(group: Group) -> TextTable:
    """What the rows reached on shifted test sets, averaged over the tasks of a board, by what their task is judged by.

    Rows without such sets are left out.
    """
    metric = group.first.primary  # runs of one basis have one task
    mean, tested = f"ood/{metric}", f"test/{metric}"
    runs_of = [(board, row, [run for run in row.all_runs() if mean in run.metrics]) for board, row in group.all_rows()]
    names = sorted(
        {name for _, _, runs in runs_of for run in runs for name in _on_shifts(run)}, key=lambda n: (n != mean, n)
    )
    which = [("data set", False)] if group.several else []
    columns = [*which, ("method", False), ("test %", True), *((_shift(name, metric), True) for name in names)]
    table = TextTable(f"On shifted test sets, {percent(mean)}", columns, label="shifted")
    for board, row, shifted in runs_of:
        if shifted:
            values = [[run.metrics[name] for run in shifted if name in run.metrics] for name in (tested, *names)]
            cells = [f"{100 * sum(v) / len(v):.1f}" if v else "–" for v in values]
            table.rows.append([*([board.tasks[0]] if group.several else []), row.label, *cells])
    return table


def _on_shifts(run: Run) -> list[str]:
    """Its metrics `ood/<set>/<metric>`, and the mean; those of single classes are named alike and are none of them."""
    sets = {name.removeprefix("ood/") for name, _ in run.images if name.startswith("ood/")}
    sets |= {name.partition(":")[0] for name in sets}
    metrics = [name for name in run.metrics if name.startswith("ood/") and name.endswith(f"/{run.primary}")]
    if not sets:  # records of before do not name them
        return [name for name in metrics if "class_accuracy" not in name]
    return [name for name in metrics if name == f"ood/{run.primary}" or _shift(name, run.primary) in sets]


def _shift(name: str, metric: str) -> str:
    return "mean" if name == f"ood/{metric}" else name.removeprefix("ood/").removesuffix(f"/{metric}")


def published_table(board: Board) -> list[TextTable]:
    """Published means of the board's methods, where they may stand beside them; or why there are none."""
    basis = dict(board.basis)
    rows, reason = published.beside(basis["backbone"], basis["weights"], basis["split"])
    if reason:
        return [TextTable("Published", [], notes=[f"No published numbers stand beside these: {reason}."])]
    methods = {row.method for row in board.rows}
    columns = [("method", False), ("params", True), ("natural %", True), ("specialized %", True)]
    columns += [("structured %", True), (f"{MEAN} %", True), ("source", False)]
    table = TextTable("Published, for orientation", columns, label="published")
    for row in rows:
        if row.method in methods:
            parameters = "–" if row.parameters is None else f"{row.parameters:g} M"
            figures = [f"{v:.1f}" for v in (row.natural, row.specialized, row.structured, row.mean)]
            table.rows.append([row.method, parameters, *figures, row.source])
    note = "They are from other code and other input pipelines; see the source before you compare the last digits."
    table.notes.append(note)
    return [table] if table.rows else []
