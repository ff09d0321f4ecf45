"""Which layers a run's budget of trainable parameters went to."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from peftbench.common.errors import UserError
from peftbench.results.collect import layer
from peftbench.results.record import Record
from peftbench.results.table import count, label

_WIDTH = 40
_MARKS = {"sparse": "·", "whole": "▪", "lora": "█", "adapter": "█"}


def render_layers(record: Record, console: Console | None = None) -> None:
    """Prints a bar for each layer: `·` single entries, `▪` whole vectors, `█` low-rank updates and adapters.

    Raises:
        UserError: the run had nothing to decide.
    """
    console = console or Console()
    if not record.plan.get("layers"):
        raise UserError(
            f"{record.folder or record.id}: method={record.config['method']['name']} has no plan; spt, spt_lora, "
            f"spt_adapter and spt_sparse have one."
        )
    layers: dict[str, dict[str, int]] = {}
    for row in record.plan["layers"]:
        kinds = layers.setdefault(layer(row["name"]), {})
        kinds[row["kind"]] = kinds.get(row["kind"], 0) + row["parameters"]
    most = max(sum(kinds.values()) for kinds in layers.values())
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    for name, kinds in layers.items():
        bar = "".join(_MARKS[k] * max(1, round(_WIDTH * n / most)) for k, n in sorted(kinds.items()))
        table.add_row(name.replace("[", r"\["), f"{sum(kinds.values()):,}", bar)
    console.print(label(record), highlight=False, soft_wrap=True)
    console.print(table)
    totals: dict[str, int] = {}
    for row in record.plan["layers"]:
        totals[row["kind"]] = totals.get(row["kind"], 0) + row["parameters"]
    parts = ", ".join(f"{k} {_MARKS[k]} {n:,}" for k, n in sorted(totals.items()))
    console.print(
        f"{record.plan['trainable']:,} trainable of a budget of {record.plan['budget']:,} "
        f"({count(record.plan['selected'])} entries chosen): {parts}",
        highlight=False,
        soft_wrap=True,
    )
