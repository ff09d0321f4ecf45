"""The table at the end of a run or a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from peftbench.common import terminal
from peftbench.common.amounts import count, milliseconds, rate, seconds, size
from peftbench.common.fitted_table import PIPED, Cell, Column, fitted, fold, left_out_in_words
from peftbench.results.advice import below_probe_of, overfitted
from peftbench.results.figures import is_figure
from peftbench.results.labels import data_name, differences, label
from peftbench.results.overfitting import overfit_of
from peftbench.results.peaks import compared_peak
from peftbench.results.record import FILE, Record
from peftbench.results.spending import ENERGY, PRICE, price_of_all, written
from peftbench.results.task_results import results_of_record, task_name

_TOLD = 5  # pieces of advice below a table
_SETTINGS = (
    "Test images judge a setting and must not choose it: peftbench report shows the one that validation chooses."
)


@dataclass(frozen=True)
class Shown:
    """A column, and what stands below its heading for a record."""

    column: Column
    show: Callable[[Record], str]


def print_table(records: Sequence[Record], console: Console | None = None) -> None:
    """Prints how good runs are beside what they cost: one as a list, several as a table; then what is not complete."""
    console = console or terminal.console()
    piped = not console.is_terminal
    if piped:
        console = terminal.console(width=PIPED, file=console.file)
    width = console.width

    def say(text: str) -> None:
        console.print(Text(text if piped else fold(text, width), style="dim"), soft_wrap=True)

    complete = [record for record in records if record.status == "complete"]
    if len(complete) == 1 and len(records) == 1:
        console.print(_list(complete[0], width))
    elif complete:
        table, left_out = _table(complete, width)
        console.print(table)
        if left_out:
            say(left_out_in_words(left_out, width, FILE))
    differing = differences(records)
    if any(differing[id(record)] and _tested(record) for record in complete):
        say(_SETTINGS)
    for note in [*price_of_all(complete), *_advice(complete, differing)]:
        say(note)
    for record in records:
        if record.status != "complete":
            which = escape(" ".join([label(record), differing[id(record)]]).strip())
            text = f"[bold]{record.status}[/bold] {which}: {escape(record.reason or '')}"
            console.print(text, soft_wrap=True, highlight=False)


def _advice(records: Sequence[Record], differing: Mapping[int, str]) -> list[str]:
    """Which runs are below the probe on the same data, backbone and seed, and which overfit."""
    named = [(" ".join([r.config["method"]["name"], differing[id(r)]]).strip(), r) for r in records]
    overfits = [overfitted(name, overfit_of(record.config, record.history)) for name, record in named]
    return [*below_probe_of(named), *filter(None, overfits)][:_TOLD]


def _tested(record: Record) -> bool:
    return any(metric.startswith("test/") for metric in record.metrics)


def _list(record: Record, width: int) -> Table:
    rows = [[Cell(shown.column.heading, "dim"), Cell(shown.show(record))] for shown in _columns([record])]
    return fitted([Column(""), Column("", right=True)], rows, width)[0]


def _table(records: Sequence[Record], width: int) -> tuple[Table, list[str]]:
    """As many columns as fit, the most telling ones longest; and the headings of the others."""
    columns = _columns(records)
    rows = [[Cell(shown.show(record)) for shown in columns] for record in records]
    return fitted([shown.column for shown in columns], rows, width)


def _columns(records: Sequence[Record]) -> list[Shown]:
    """What the runs are called and differ in, what their tasks are judged by, and what they cost.

    What is reached on shifted test sets, the taps, energy and price have a column only where a run had any.
    """
    columns = [_rank_of_name(shown, records) for shown in _NAMES]
    differing = differences(records)
    if any(differing.values()):
        columns.append(Shown(Column("with"), lambda record: differing[id(record)] or "–"))
    columns += _metric_columns(records)
    if any(_shifted_metric(record) in record.metrics for record in records):
        columns.append(Shown(Column("ood %", True, rank=4), _on_shifted_sets))
    shown_where_any = (_taps, _energy, _price)
    return columns + [
        shown
        for shown in _COSTS
        if shown.show not in shown_where_any or any(shown.show(record) != "–" for record in records)
    ]


def _rank_of_name(shown: Shown, records: Sequence[Record]) -> Shown:
    """What tells records apart is left out last; what all share tells little."""
    several = len({shown.show(record) for record in records}) > 1
    rank = 0 if shown.column.heading == "method" else 1 if several else 4
    return replace(shown, column=replace(shown.column, rank=rank))


_NOTHING = "–"


def _metric_columns(records: Sequence[Record]) -> list[Shown]:
    """What the tasks of these records show, by name of the task. What a task is judged by is never left out."""
    results_by_task = {task_name(r.config): results_of_record(r) for r in records}
    results = [results for _, results in sorted(results_by_task.items())]
    judged_by = {task.metric for task in results}
    pairs = dict.fromkeys((*pair, pair[1] in task.errors) for task in results for pair in task.columns.items())
    columns = []
    for name, metric, plain in pairs:
        show = _reached(metric, plain)
        if metric in judged_by or any(show(record) != _NOTHING for record in records):  # not every run has masks
            columns.append(Shown(Column(name, True, rank=0 if metric in judged_by else 5), show))
    return columns


def _name(group: str) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        chosen = (record.config.get("choices") or {}).get(group)
        own = (record.config.get(group) or {}).get("name") or "?"
        return str(own if chosen in (None, "timm") else chosen)

    return show


def _reached(metric: str, plain: bool = False) -> Callable[[Record], str]:
    """On test images, or else on validation images; in per cent, or plainly in the units of the targets."""

    def show(record: Record) -> str:
        for role, mark in (("test", ""), ("val", " (val)")):
            value = record.metrics.get(f"{role}/{metric}")
            if is_figure(value):
                return f"{value:.4g}{mark}" if plain else f"{100 * value:.1f}{mark}"
        return _NOTHING

    return show


def _on_shifted_sets(record: Record) -> str:
    value = record.metrics.get(_shifted_metric(record))
    return f"{100 * value:.1f}" if is_figure(value) else "–"


def _shifted_metric(record: Record) -> str:
    """What the record's task is judged by, as a mean over shifted sets."""
    return f"ood/{results_of_record(record).metric}"


def _cost(path: str, form: Callable[[Any], str]) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        value: Any = record.costs
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return form(value) if is_figure(value) else "–"

    return show


def _peak_memory(record: Record) -> str:
    value, _ = compared_peak((record.costs.get("memory") or {}).get("peak"))
    return "–" if value is None else size(value)


def _step(record: Record) -> str:
    """`12.3 ms`; runs that were trained together share a step: `12.3 ms / 8`."""
    step = _cost("time.step.median", milliseconds)(record)
    runs = record.costs.get("together") or 1
    return f"{step} / {runs}" if runs > 1 else step


def _taps(record: Record) -> str:
    """Whether the run trained from kept taps, and what computing them took."""
    taps = record.costs.get("taps") or {"mode": "off"}
    if taps["mode"] == "off":
        return "–"
    if not taps.get("computed"):
        return f"{taps['mode']}, filled"
    return f"{taps['mode']}, {_cost('taps.seconds', seconds)(record)} to fill"


def _energy(record: Record) -> str:
    """Of training and test, with a word where nothing measured it; of runs that trained together an equal share."""
    energy = record.costs.get("energy") or {}
    if energy.get("train") is None:
        return "–"
    value = written(energy["train"] + (energy.get("test") or 0.0), ENERGY, energy.get("measure"))
    return f"{value} (share of {energy['share_of']})" if "share_of" in energy else value


def _price(record: Record) -> str:
    """With the price of an hour."""
    money = record.costs.get("money")
    if not money:
        return "–"
    value = written(money["amount"], PRICE, money["price"], several=True)
    return f"{value} (share of {money['share_of']})" if "share_of" in money else value


_NAMES = (
    Shown(Column("method"), _name("method")),
    Shown(Column("backbone"), _name("backbone")),
    Shown(Column("data"), lambda record: data_name(record.config)),
    Shown(Column("seed", True), lambda record: str(record.config.get("seed", "?"))),
)
_COSTS = (
    Shown(Column("params", True, rank=3), _cost("parameters.method", count)),
    Shown(Column("head", True, rank=9), _cost("parameters.head", count)),
    Shown(Column("train", True, rank=2), _cost("time.train", seconds)),
    Shown(Column("step", True, rank=8), _step),
    Shown(Column("taps", rank=7), _taps),
    Shown(Column("energy", True, rank=6), _energy),
    Shown(Column("price", True, rank=6), _price),
    Shown(Column("images/s", True, rank=11), _cost("time.images_per_second", rate)),
    Shown(Column("peak mem", True, rank=5), _peak_memory),
    Shown(Column("saved/step", True, rank=12), _cost("memory.saved_for_backward", size)),
    Shown(Column("delta", True, rank=10), _cost("delta_bytes", size)),
)
