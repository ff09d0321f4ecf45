"""A report as plain tables: what each says, apart from how it is written (`formats.py`, `page.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from peftbench.results import published
from peftbench.results.boards import FLAT, MEAN, Board, Mean, Row
from peftbench.results.collect import OWN, Collected
from peftbench.results.primary import short
from peftbench.results.stats import Difference
from peftbench.results.table import count, seconds, size

_SHOWN = ("parameters", "head", "train", "step", "memory")
_ANYWHERE = {"parameters", "head"}  # alike on every machine
_NAMED = 10  # files, runs or tasks that are named before the rest is counted


@dataclass
class Table:
    """`columns` are (name, whether it is a number); `notes` stand below. `values` are the numbers to sort cells by."""

    title: str
    columns: list[tuple[str, bool]]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: list[list[float | None]] = field(default_factory=list)


def tables(found: Sequence[Board], collected: Collected, incomplete: bool = False) -> list[Table]:
    """Of every board its means and costs, its tasks and its differences; then what is in none."""
    every = [t for i, board in enumerate(found) for t in of(board, i, incomplete)]
    return [*every, *rest(found, collected)]


def of(board: Board, number: int, incomplete: bool) -> list[Table]:
    """The tables of one board, that of means and costs first."""
    every = [means(board, number, incomplete)]
    if len(board.tasks) > 1 or board.vtab:
        every.append(tasks(board))
    shifted = ood(board)
    if shifted.rows:
        every.append(shifted)
    if len(board.rows) > 1:
        every.append(pairs(board))
    if board.vtab:
        every += _published(board)
    return every


def title(board: Board) -> str:
    """What the board's runs share, in a line."""
    basis = dict(board.basis)
    weights = f", weights {basis['weights']}" if basis["weights"] != "hub" else ""
    of = "VTAB-1k" if board.vtab else f"{len(board.tasks)} data set{'s' * (len(board.tasks) != 1)}"
    made = "" if basis["split"] == OWN else f", split {basis['split']}"
    metric = "" if board.metric == "test/accuracy" else f", {board.metric}"
    return f"{basis['backbone']}{weights}, {basis['input']}, trained on {basis['trained on']}: {of}{made}{metric}"


def means(board: Board, number: int, incomplete: bool) -> Table:
    """Means over tasks and what they cost."""
    columns = [("method", False), ("seeds", True)]
    names = list(board.means(board.rows[0], incomplete))
    columns += [(f"{n} %" if len(board.tasks) > 1 or board.vtab else f"{board.tasks[0]} %", True) for n in names]
    second = replace(board, metric=board.beside) if board.beside else None
    columns += [(f"{short(second.metric)} %", True)] if second else []
    columns += [(n, True) for n in ("params", "head", "train", "step", "peak mem")] + [("times", False)]
    table = Table(("" if not number else "Apart: ") + title(board), columns)
    if board.apart:
        table.notes.append(f"Apart from the boards before: {board.apart}.")
    for row in board.rows:
        found = board.means(row, incomplete)
        every = [*found.values(), *([second.mean(row, board.tasks, incomplete)] if second else [])]
        table.rows.append([row.label, row.seeds, *map(shown, every), *costs(row)])
        alone = len(row.machines) == 1
        numbers = [row.cost(n) if alone or n in _ANYWHERE else None for n in _SHOWN]
        table.values.append([None, None, *(m.value for m in every), *numbers, None])
    table.notes += _notes(board, incomplete)
    return table


def _notes(board: Board, incomplete: bool) -> list[str]:
    notes = ["± is half of the 95 % interval over seeds (t); without it there is one seed, or a task with one."]
    for row in board.rows:
        missing = board.means(row, incomplete)[FLAT].missing
        if missing and len(notes) <= _NAMED:
            what = f"{row.label}: {len(missing)} task{'s' * (len(missing) != 1)} missing ({_some(missing)})"
            notes.append(f"* {what}" + ("." if incomplete else "; incomplete=true gives the mean of the others."))
    failed = sum(sum(r.failed.values()) for r in board.rows)
    if failed:
        notes.append(
            f"{failed} run{'s' * (failed != 1)} of these settings failed, and are in no mean († marks the cells)."
        )
    several = sorted({m for row in board.rows for m in row.machines})
    if len(several) > 1:
        notes.append(f"Times and memory are of {len(several)} machines, and comparable within one: {_some(several)}.")
    measures = {r.costs.measure for row in board.rows for runs in row.runs.values() for r in runs} - {""}
    if len(measures) > 1:
        notes.append(f"Memory is measured in {len(measures)} ways: {_some(sorted(measures))}.")
    if any(row.times for row in board.rows):
        notes.append("Times from kept taps leave out what filling them took; runs trained together share their times.")
    tuned = sorted({row.tuned for row in board.rows} - {""})
    notes += [f"Settings were chosen on validation images by {t}." for t in tuned[:_NAMED]]
    if tuned and any(not row.tuned for row in board.rows):
        notes.append("Rows without a protocol are of one setting for all tasks; how it was found is not recorded.")
    if board.twice:
        notes.append(f"Counted once: {len(board.twice)} runs of a setting and seed that is there already "
                     f"({_some([r.id for r in board.twice])}).")  # fmt: skip
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(n.removeprefix("vtab/") for n in names[:_NAMED]) + more


def shown(mean: Mean, failed: int = 0) -> str:
    """`91.2 ± 0.4` in per cent; `*` marks a mean over fewer tasks than there are, `†` failed runs."""
    if mean.value is None:
        return "†" if failed else "–" + "*" * bool(mean.missing)
    text = f"{100 * mean.value:.1f}" + ("" if mean.half is None else f" ± {100 * mean.half:.1f}")
    return text + "*" * bool(mean.missing) + "†" * bool(failed)


def costs(row: Row) -> list[str]:
    """Parameters, head, training and step time, memory, and what kind of times these are."""
    found = [_known(row.cost("parameters"), count), _known(row.cost("head"), count)]
    if len(row.machines) > 1:
        return [*found, "–", "–", "–", f"{len(row.machines)} machines"]
    step = _known(row.cost("step"), lambda v: f"{1000 * v:.1f} ms")
    return [*found, _known(row.cost("train"), seconds), step, _known(row.cost("memory"), size), row.times or "live"]


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def tasks(board: Board) -> Table:
    """A cell for every method and task."""
    name = short(board.metric)
    table = Table(
        f"{name[0].upper()}{name[1:]} by task, %",
        [("method", False), *((t.removeprefix("vtab/"), True) for t in board.tasks)],
    )
    for row in board.rows:
        table.rows.append([row.label, *(shown(board.cell(row, t), row.failed[t]) for t in board.tasks)])
    return table


def ood(board: Board) -> Table:
    """Accuracy on shifted test sets, for the rows that have any, averaged over tasks."""
    names = sorted({k for row in board.rows for runs in row.runs.values() for r in runs for k in r.metrics if _ood(k)})
    names.sort(key=lambda n: n != "ood/accuracy")
    columns = [("method", False), ("test %", True)]
    table = Table("On shifted test sets, %", [*columns, *((_shift(n), True) for n in names)])
    for row in board.rows:
        own = [r for runs in row.runs.values() for r in runs if "ood/accuracy" in r.metrics]
        if own:
            values = [[r.metrics[n] for r in own if n in r.metrics] for n in (board.metric, *names)]
            table.rows.append([row.label, *(f"{100 * sum(v) / len(v):.1f}" if v else "–" for v in values)])
    return table


def _ood(name: str) -> bool:
    return name.startswith("ood/") and name.endswith("accuracy") and "class_accuracy" not in name


def _shift(name: str) -> str:
    return "mean" if name == "ood/accuracy" else name.removeprefix("ood/").removesuffix("/accuracy")


def pairs(board: Board) -> Table:
    """Paired differences, and in words whether they are more than noise."""
    columns = [("first", False), ("second", False), ("difference", True), ("paired over", False)]
    columns += [("p (t, Holm)", True), ("p (Wilcoxon)", True), ("so", False)]
    table = Table(f"Differences between methods, points of {short(board.metric)}", columns)
    found = board.pairs()
    for a, b, difference, over in found:
        table.rows.append([a.label, b.label, points(difference), over, _p(difference.holm), _p(difference.wilcoxon),
                           sentence(a, difference)])  # fmt: skip
    if len(board.rows) > 2 and len(found) < len(board.rows) * (len(board.rows) - 1) / 2:
        table.notes.append("Of this many methods each is compared with the first alone, where they share tasks.")
    table.notes.append(
        "A pair is a task with its seeds averaged where three tasks are shared, else a task and seed; p-values are "
        "corrected for their number (Holm)."
    )
    return table


def points(difference: Difference) -> str:
    """`+1.2 ± 0.4` points."""
    return f"{100 * difference.mean:+.1f}" + ("" if difference.half is None else f" ± {100 * difference.half:.1f}")


def sentence(first: Row, difference: Difference) -> str:
    """The verdict in words."""
    words = {"better": f"{first.label} is better", "worse": f"{first.label} is worse"}
    words |= {"no telling": "too few pairs to tell", "equal": "the same in every pair"}
    return words.get(difference.verdict, difference.verdict)


def _p(value: float | None) -> str:
    return "–" if value is None else ("<0.001" if value < 0.001 else f"{value:.3f}")


def _published(board: Board) -> list[Table]:
    basis = dict(board.basis)
    rows, reason = published.beside(basis["backbone"], basis["weights"], basis["split"])
    methods = {row.method for row in board.rows}
    rows = tuple(r for r in rows if r.method in methods)
    columns = [("method", False), ("params", True), ("natural %", True), ("specialized %", True)]
    columns += [("structured %", True), (f"{MEAN} %", True), ("source", False)]
    table = Table("Published, for orientation", columns)
    if not rows:
        return [Table("Published", [], [], [f"No published numbers beside these: {reason}."])] if reason else []
    for r in rows:
        params = "–" if r.parameters is None else f"{r.parameters:g} M"
        figures = (r.natural, r.specialized, r.structured, r.mean)
        table.rows.append([r.method, params, *(f"{v:.1f}" for v in figures), r.source])
    table.notes.append("Other code, other input pipelines; see the source before comparing the last digits.")
    return [table]


def rest(found: Sequence[Board], collected: Collected) -> list[Table]:
    """What is in no board: runs without the metric, runs that did not complete, files that are no records."""
    inside = {r.id for b in found for row in b.rows for runs in row.runs.values() for r in runs}
    inside |= {r.id for b in found for r in b.twice}
    outside = [r for r in collected.runs if r.id not in inside]
    every = []
    tuning = [r for r in outside if r.status == "complete"]
    if tuning:
        text = f"Complete, but without this metric (of data.stage=tune, say), and in no table: {len(tuning)} runs."
        every.append(Table("Left out", [], [], [text]))
    broken = [r for r in outside if r.status != "complete"]
    if broken:
        counts = Counter(r.status for r in broken)
        table = Table("Not complete: " + ", ".join(f"{n} {s}" for s, n in counts.most_common()),
                      [("run", False), ("status", False), ("reason", False)])  # fmt: skip
        table.rows = [[r.id, r.status, _first_line(r.reason)] for r in broken[:_NAMED]]
        if len(broken) > _NAMED:
            table.notes.append(f"and {len(broken) - _NAMED} more.")
        every.append(table)
    for name, listed in (("Skipped: no records of this version", collected.skipped),
                         ("Repeated: counted once", collected.repeated)):  # fmt: skip
        if listed:
            notes = [f"and {len(listed) - _NAMED} more."] if len(listed) > _NAMED else []
            table = Table(f"{name} ({len(listed)})", [("file", False), ("reason", False)], notes=notes)
            table.rows = [list(item) for item in listed[:_NAMED]]
            every.append(table)
    return every


def _first_line(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first if len(first) < 160 else first[:157] + "…"
