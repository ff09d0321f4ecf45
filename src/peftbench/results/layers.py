"""Which layers a run's budget of trainable parameters went to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from peftbench.common import terminal
from peftbench.common.amounts import count, plural
from peftbench.common.errors import UserError
from peftbench.results.labels import label
from peftbench.results.record import Record

_WIDTH, _NARROW = 40, 10  # cells of the longest bar, which gives way to names and figures
_BETWEEN = 6  # cells of three columns' edges
_MARKS = {"sparse": "·", "whole": "▪"}
_BAR = "█"


def layer_parameters(plan: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """(layer, kind of update) -> parameters that train, summed over the tensors of the layer; in the plan's order.

    It is empty for the plan of a method that has no budget to share among layers.
    """
    parameters: Counter[tuple[str, str]] = Counter()
    for row in plan.get("layers") or []:
        parameters[layer_of(str(row["name"])), str(row["kind"])] += int(row["parameters"])
    return parameters


def layer_of(tensor: str) -> str:
    """The layer of a tensor: `blocks.0.attn.qkv` of `blocks.0.attn.qkv.weight[:128]`, its third kept."""
    stem, _, last = tensor.rpartition(".")
    third = f"[{last.partition('[')[2]}" if "[" in last else ""
    return (stem or last) + third


def print_layers(record: Record, console: Console | None = None) -> None:
    """Prints a bar for each layer: `·` single entries, `▪` whole tensors, `█` low-rank updates, adapters and rows.

    Raises:
        UserError: the run's method had no plan of layers.
    """
    console = console or terminal.console()
    parameters = layer_parameters(record.plan)
    if not parameters:
        raise UserError(
            f"{record.folder or record.id}: method={record.config['method']['name']} has no plan; peftbench layers "
            f"shows the plan of a method that shares a budget of parameters among layers."
        )
    layers: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for (layer, kind), number in parameters.items():
        layers.setdefault(layer, Counter())[kind] += number
        totals[kind] += number
    most = max(1, *(kinds.total() for kinds in layers.values()))
    numbers = max(len(f"{kinds.total():,}") for kinds in layers.values())
    widest = min(_WIDTH, max(_NARROW, console.width - max(map(len, layers)) - numbers - _BETWEEN))
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for layer, kinds in layers.items():
        bar = "".join(_mark(kind) * max(1, round(widest * n / most)) for kind, n in sorted(kinds.items()))
        table.add_row(escape(layer), f"{kinds.total():,}", bar)
    console.print(label(record), highlight=False, soft_wrap=True)
    console.print(table)
    parts = ", ".join(f"{kind} {_mark(kind)} {n:,}" for kind, n in sorted(totals.items()))
    plan, budget = record.plan, ""
    if plan.get("budget") is not None:
        chosen = "" if plan.get("selected") is None else f" ({plural(count(plan['selected']), 'entry')} chosen)"
        budget = f" of a budget of {plan['budget']:,}{chosen}"
    trainable = totals.total() if plan.get("trainable") is None else plan["trainable"]
    console.print(f"{trainable:,} trainable{budget}: {parts}", highlight=False, soft_wrap=True)


def _mark(kind: str) -> str:
    return _MARKS.get(kind, _BAR)
