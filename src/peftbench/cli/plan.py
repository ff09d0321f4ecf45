"""`peftbench plan method=… backbone=… data=…`: what a run would do, layer by layer, before anything is trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.config_files import roots
from peftbench.common.status_line import doing, doing_import

if TYPE_CHECKING:
    from rich.table import Table


def print_plan(words: Words) -> int:
    """Prints what the run that the overrides describe would train. Raises UserError as the run would."""
    doing("reading the configuration")
    from peftbench.config.compose import compose

    config = compose(*words.overrides, *_search_path(words["config_dir"]))
    doing_import("torch")
    from peftbench.runs.dry_run import plan_run

    doing("building the model without weights")
    planned = plan_run(config)
    if words["json"]:
        print(json.dumps({**asdict(planned), "relative_time": planned.relative_time}, indent=1))
    else:
        _print_tables(planned, config)
    return 0


def _search_path(folder: str | None) -> list[str]:
    """--config-dir DIR as an override, which is all that composing takes. Raises UserError."""
    if folder is None:
        return []
    (_, path) = roots([f"--config-dir={folder}"])
    return [f'hydra.searchpath=["file://{path.absolute().as_posix()}"]']


def _print_tables(planned: Any, config: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(_table(planned))
    rest = sum(1 for r in planned.rows if not _changed(r))
    if rest:
        console.print(f"{rest} more layers stay as they are", highlight=False)
    console.print(_sums(planned, config))
    for note in planned.notes:
        console.print(note, highlight=False)


def _changed(row: Any) -> bool:
    return bool(row.trained or row.added or row.pruned or row.skipped)


def _table(planned: Any) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    changed = [r for r in planned.rows if _changed(r)]
    columns = ["base", *(c for c in ("pruned", "trained", "added") if any(getattr(r, c) for r in changed))]
    for name in ("layer", "kind", *columns, ""):
        table.add_column(name, justify="right" if name in columns else "left", overflow="fold")
    for row in changed:
        note = row.skipped and f"left as it is: {row.skipped}"
        note = note or ("merged in the end" if row.merges else "")
        table.add_row(row.name, row.kind, *(f"{getattr(row, c):,}" if getattr(row, c) else "–" for c in columns), note)
    return table


def _sums(planned: Any, config: Any) -> Table:
    from rich import box
    from rich.table import Table

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


COMMAND = Command(
    "plan",
    "what a run would train, layer by layer, and what a step would take",
    print_plan,
    (Argument("json", "as JSON", kind="flag", default=False), CONFIG_DIR),
    takes_overrides=True,
    description="Nothing is trained and no weights are read: the model is built without memory.",
    examples=(
        "peftbench plan method=petah backbone=efficientformer_l1 data=digits",
        "peftbench plan method=losa backbone=vit_g data=digits --json",
    ),
)
