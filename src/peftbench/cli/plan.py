"""`peftbench plan method=… backbone=… data=…`: what a run would do, layer by layer, before anything is trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from peftbench.common.errors import UserError


def run(arguments: list[str]) -> int:
    """Prints the plan, with `--json` as JSON. Raises UserError as the run would."""
    words = arguments[arguments.index("plan") + 1 :] + arguments[: arguments.index("plan")]
    as_json = "--json" in words
    words = [w for w in words if w != "--json"]
    if options := [w for w in words if w.startswith("-")]:
        raise UserError(f"plan {options[0]}: there is no such option; plan takes key=value as a run does, and --json.")

    from peftbench.config.compose import compose

    config = compose(*words)
    from peftbench.runs.dry_run import plan_run

    planned = plan_run(config)
    if as_json:
        found = {**asdict(planned), "relative_time": planned.relative_time}
        print(json.dumps(found, indent=1))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(_table(planned))
    rest = sum(1 for r in planned.rows if not _told(r))
    if rest:
        console.print(f"{rest} more layers stay as they are", highlight=False)
    console.print(_sums(planned, config))
    for note in planned.notes:
        console.print(note, highlight=False)
    return 0


def _told(row: Any) -> bool:
    return bool(row.trained or row.added or row.pruned or row.skipped)


def _table(planned: Any) -> Table:
    table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    told = [r for r in planned.rows if _told(r)]
    columns = ["base", *(c for c in ("pruned", "trained", "added") if any(getattr(r, c) for r in told))]
    for name in ("layer", "kind", *columns, ""):
        table.add_column(name, justify="right" if name in columns else "left", overflow="fold")
    for row in told:
        note = row.skipped and f"left as it is: {row.skipped}"
        note = note or ("merged in the end" if row.merges else "")
        table.add_row(row.name, row.kind, *(f"{getattr(row, c):,}" if getattr(row, c) else "–" for c in columns), note)
    return table


def _sums(planned: Any, config: Any) -> Table:
    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    counts, step = planned.parameters, planned.step
    table.add_row("parameters of the method", f"{counts['method']:,} ({counts['method_share']:.2%} of the backbone)")
    table.add_row("of the backbone", f"{counts['backbone']:,}")
    table.add_row("of the head", f"{counts['head']:,}")
    for part, count in counts.get("parts", {}).items():
        table.add_row(f"of it the detector's {part}", f"{count:,}")
    if step is not None:
        table.add_row("memory of a step, allocated", f"{step.peak / 1e6:,.0f} MB (batch {config.data.batch_size})")
        table.add_row("of it kept for backward", f"{step.saved / 1e6:,.0f} MB")
        table.add_row("arithmetic of a step, against full fine-tuning", f"{planned.relative_time:.2f}")
    return table
