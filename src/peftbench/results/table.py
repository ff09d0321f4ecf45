"""The table at the end of a run or a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from peftbench.common.amounts import count, seconds, size
from peftbench.results.labels import data_name, differences, label
from peftbench.results.record import Record
from peftbench.results.task_results import results_of_record, task_name

_SETTINGS = (
    "Test images judge a setting and must not choose it: peftbench report shows the one that validation chooses."
)


@dataclass(frozen=True)
class Column:
    """A heading, and what stands below it for a record."""

    heading: str
    justify: Literal["left", "right"]
    show: Callable[[Record], str]


def print_table(records: Sequence[Record], console: Console | None = None) -> None:
    """Prints how good runs are beside what they cost: one as a list, several as a table; then what is not complete."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=200, file=console.file)
    complete = [record for record in records if record.status == "complete"]
    if len(complete) == 1 and len(records) == 1:
        console.print(_list(complete[0]))
    elif complete:
        console.print(_table(complete, console))
    differing = differences(records)
    if any(differing[id(record)] and _tested(record) for record in complete):
        console.print(f"[dim]{_SETTINGS}[/dim]", soft_wrap=True, highlight=False)
    for record in records:
        if record.status != "complete":
            which = escape(" ".join([label(record), differing[id(record)]]).strip())
            text = f"[bold]{record.status}[/bold] {which}: {escape(record.reason or '')}"
            console.print(text, soft_wrap=True, highlight=False)


def _tested(record: Record) -> bool:
    return any(metric.startswith("test/") for metric in record.metrics)


def _list(record: Record) -> Table:
    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for column in _columns([record]):
        table.add_row(escape(column.heading), column.show(record))
    return table


def _table(records: Sequence[Record], console: Console) -> Table:
    """As many columns as fit; the most telling ones stay longest."""
    columns = _columns(records)
    while True:
        table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
        for column in columns:
            table.add_column(escape(column.heading), justify=column.justify, no_wrap=True)
        for record in records:
            table.add_row(*(column.show(record) for column in columns))
        fits = Measurement.get(console, console.options.update(max_width=1000), table).maximum <= console.width
        extra = next((c for heading in _FIRST_TO_GO for c in columns if c.heading == heading), None)
        if fits or extra is None:
            return table
        columns.remove(extra)


def _columns(records: Sequence[Record]) -> list[Column]:
    """What the runs are called and differ in, what their tasks are judged by, and what they cost.

    The accuracy on shifted test sets and the taps have a column only where a run had any.
    """
    columns = [*_NAMES]
    differing = differences(records)
    if any(differing.values()):
        columns.append(Column("with", "left", lambda record: differing[id(record)] or "–"))
    columns += _metric_columns(records)
    if any("ood/accuracy" in record.metrics for record in records):
        columns.append(Column("ood %", "right", _on_shifted_sets))
    with_taps = any(_taps(record) != "–" for record in records)
    return columns + [column for column in _COSTS if column.show is not _taps or with_taps]


def _metric_columns(records: Sequence[Record]) -> list[Column]:
    """What the tasks of these records show, by name of the task."""
    shown_by_task = {task_name(r.config): results_of_record(r).columns for r in records}
    pairs = dict.fromkeys(pair for _, columns in sorted(shown_by_task.items()) for pair in columns.items())
    return [Column(heading, "right", _reached(metric)) for heading, metric in pairs]


def _name(group: str) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        chosen = (record.config.get("choices") or {}).get(group)
        return str(record.config[group]["name"] if chosen in (None, "timm") else chosen)

    return show


def _reached(metric: str) -> Callable[[Record], str]:
    """On test images, or else on validation images."""

    def show(record: Record) -> str:
        for role, mark in (("test", ""), ("val", " (val)")):
            value = record.metrics.get(f"{role}/{metric}", math.nan)
            if math.isfinite(value):
                return f"{100 * value:.1f}{mark}"
        return "–"

    return show


def _on_shifted_sets(record: Record) -> str:
    accuracy = record.metrics.get("ood/accuracy")
    return "–" if accuracy is None else f"{100 * accuracy:.1f}"


def _cost(path: str, form: Callable[[Any], str]) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        value: Any = record.costs
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return "–" if value is None else form(value)

    return show


def _peak_memory(record: Record) -> str:
    memory = record.costs.get("memory", {}).get("peak", {})
    value = memory.get("allocated", memory.get("resident"))
    return "–" if value is None else size(value)


def _step(record: Record) -> str:
    """`12.3 ms`; runs that were trained together share a step: `12.3 ms / 8`."""
    step = _cost("time.step.median", lambda value: f"{1000 * value:.1f} ms")(record)
    runs = record.costs.get("together", 1)
    return f"{step} / {runs}" if runs > 1 else step


def _taps(record: Record) -> str:
    """Whether the run trained from kept taps, and what computing them took."""
    taps = record.costs.get("taps") or {"mode": "off"}
    if taps["mode"] == "off":
        return "–"
    return f"{taps['mode']}, {seconds(taps['seconds'])} to fill" if taps["computed"] else f"{taps['mode']}, filled"


_NAMES = (
    Column("method", "left", _name("method")),
    Column("backbone", "left", _name("backbone")),
    Column("data", "left", lambda record: data_name(record.config)),
    Column("seed", "right", lambda record: str(record.config["seed"])),
)
_COSTS = (
    Column("params", "right", _cost("parameters.method", count)),
    Column("head", "right", _cost("parameters.head", count)),
    Column("train", "right", _cost("time.train", seconds)),
    Column("step", "right", _step),
    Column("taps", "right", _taps),
    Column("images/s", "right", _cost("time.images_per_second", lambda value: f"{value:.0f}")),
    Column("peak mem", "right", _peak_memory),
    Column("saved/step", "right", _cost("memory.saved_for_backward", size)),
    Column("delta", "right", _cost("delta_bytes", size)),
)
_FIRST_TO_GO = ("saved/step", "images/s", "delta", "seed", "head", "train", "peak mem")
