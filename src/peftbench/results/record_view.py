"""A record as Python shows it: one line at the prompt, a short table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from peftbench.common import amounts
from peftbench.results.figures import is_figure
from peftbench.results.labels import label
from peftbench.results.peaks import compared_peak
from peftbench.results.record import Record


def as_line(record: Record) -> str:
    """What a record says first, on one line."""
    said = [f"{name} {value}" for name, value in _metrics(record)[:1]]
    return f"Record({', '.join(map(_text, [record.id, record.status, *said]))})"


def as_html(record: Record) -> str:
    """A table of two columns; all text is escaped, since records come from anywhere."""
    left = "style='text-align:left'"
    lines = (
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(value)}</td></tr>"
        for name, value in rows(record)
    )
    return f"<table>{''.join(lines)}</table>"


def rows(record: Record) -> list[tuple[str, str]]:
    """What the table shows: the run, what it reached, what it cost; what is missing is left out."""
    status = f"{record.status}: {record.reason}" if record.reason else _text(record.status)
    shown = [("run", _text(record.id)), ("what", _what(record)), ("status", status)]
    shown += _metrics(record)
    shown += _costs(record.costs)
    if record.folder:
        shown.append(("folder", record.folder))
    return shown


def _what(record: Record) -> str:
    try:
        return label(record)
    except (AttributeError, TypeError):  # a config of another form
        return "?"


def _metrics(record: Record) -> list[tuple[str, str]]:
    """The metric that the run is judged by first, then the others of the test, or of validation where there is none."""
    role = "test" if any(name.startswith("test/") for name in record.metrics) else "val"
    first = f"{role}/{record.stamps.get('judged_by', 'accuracy')}"
    names = [n for n in record.metrics if n.startswith(f"{role}/") and n.count("/") == 1]
    names.sort(key=lambda name: name != first)
    return [(name, _number(record.metrics[name])) for name in names]


def _costs(costs: Mapping[str, Any]) -> list[tuple[str, str]]:
    wanted = (
        ("parameters of the method", ("parameters", "method"), amounts.count),
        ("time of training", ("time", "train"), amounts.seconds),
    )
    shown: dict[str, str] = {}
    for name, path, written in wanted:
        value: Any = costs
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if is_figure(value):
            shown.setdefault(name, written(value))
    kept = costs.get("memory")
    memory, _ = compared_peak(kept.get("peak") if isinstance(kept, Mapping) else None)
    if memory is not None:
        shown["memory of training"] = amounts.size(memory)
    return list(shown.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else _text(value)


def _text(value: Any) -> str:
    return " ".join(str(value).split())
