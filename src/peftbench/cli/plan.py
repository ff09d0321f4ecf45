"""`peftbench plan method=… backbone=… data=…`: what a run would do, layer by layer, before anything is trained."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common import amounts, terminal
from peftbench.common.config_files import search_path
from peftbench.common.status_line import doing, doing_import

if TYPE_CHECKING:
    from rich.table import Table

    from peftbench.config import Config


def print_plan(words: Words) -> int:
    """Prints what the run that the overrides describe would train. Raises UserError as the run would."""
    doing("reading the configuration")
    from peftbench.config.compose import compose
    from peftbench.runs.data_sets import outline_data

    config = compose(*words.overrides, *search_path(words["config_dir"]))
    doing(f"reading the lists of data={config.choices.get('data') or config.data.name}")
    outlined = outline_data(config)  # before torch, whose import takes seconds
    doing_import("torch")
    from peftbench.runs.dry_run import plan_run

    doing("building the model without weights")
    planned = plan_run(config, words["probe"] or words["time"], outlined, latency=words["time"])
    if words["memory"]:
        from peftbench.runs.memory_ways import ways_to_less_memory

        doing("simulating steps that take less memory")
        planned = replace(planned, ways=ways_to_less_memory(config, outlined.splits))
    planned = replace(planned, notes=(*planned.notes, *_too_large(planned, config)))
    if words["json"]:
        print(json.dumps({**asdict(planned), "relative_time": planned.relative_time}, indent=1))
    else:
        _print_tables(planned, config, words["time"])
    return 0


def _too_large(planned: Any, config: Any) -> list[str]:
    """A note where a step takes more than a run may take on this machine; a plan may be for another."""
    from peftbench.runs.device_memory import usable_memory

    if planned.step is None or config.backbone.stream:
        return []
    needed, room = planned.weights + planned.step.peak, usable_memory(config)
    if needed <= room:
        return []
    return [
        f"memory: about {amounts.size(needed)} are more than the {amounts.size(room)} that a run may take on this "
        f"machine; memory=true shows what takes less"
    ]


def _print_tables(planned: Any, config: Any, of_parts: bool) -> None:
    from peftbench.common.fitted_table import left_out_in_words

    console = terminal.console()
    if not console.is_terminal:
        console = terminal.console(width=160)
    table, left_out = _table(planned, console.width)
    console.print(table)
    if left_out:
        words = left_out_in_words(left_out, console.width, "--json")
        console.print(words, style="dim", highlight=False)
    rest = sum(1 for r in planned.rows if not _changed(r))
    if rest:
        stay = amounts.agreeing(rest, "stays as it is", "stay as they are")
        console.print(f"{amounts.plural(rest, 'more layer')} {stay}", highlight=False)
    console.print(_sums(planned, config, of_parts))
    for note in planned.notes:
        console.print(note, highlight=False)


def _changed(row: Any) -> bool:
    return bool(row.trained or row.added or row.pruned or row.skipped)


def _table(planned: Any, width: int) -> tuple[Table, list[str]]:
    """The layers that change, and the headings for which there is no room."""
    from peftbench.common.fitted_table import Cell, Column, fitted

    changed = [r for r in planned.rows if _changed(r)]
    counts = ["base", *(c for c in ("pruned", "trained", "added") if any(getattr(r, c) for r in changed))]
    ranks = {"base": 2, "pruned": 1}
    columns = [Column("layer"), Column("kind", rank=3), *(Column(c, True, ranks.get(c, 0)) for c in counts), Column("")]
    rows = []
    for row in changed:
        note = row.skipped and f"left as it is: {row.skipped}"
        note = note or ("merged in the end" if row.merges else "")
        numbers = [f"{getattr(row, c):,}" if getattr(row, c) else "–" for c in counts]
        rows.append([Cell(text) for text in (row.name, row.kind, *numbers, note)])
    if not any(row[-1].text for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return fitted(columns, rows, width)


def _sums(planned: Any, config: Any, of_parts: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(justify="right", overflow="fold")
    counts, step = planned.parameters, planned.step
    table.add_row("parameters of the method", f"{counts['method']:,} ({counts['method_share']:.2%} of the backbone)")
    table.add_row("of the backbone", f"{counts['backbone']:,}")
    table.add_row("of the head", f"{counts['head']:,}")
    for part, count in counts.get("parts", {}).items():
        table.add_row(f"of it the {part}", f"{count:,}")
    table.add_row("memory of the weights", amounts.size(planned.weights))
    if step is not None:
        table.add_row("memory of a step, allocated", f"{step.peak / 1e6:,.0f} MB ({_images_of_step(config)})")
        table.add_row("of it kept for backward", f"{step.saved / 1e6:,.0f} MB")
        table.add_row("arithmetic of a step, against full fine-tuning", f"{planned.relative_time:.2f}")
    for way in planned.ways:
        text = f"{way.peak / 1e6:,.0f} MB ({way.saved / 1e6:,.0f} MB kept for backward)"
        table.add_row(f"memory of a step with {way.words}{'' if way.same_batch else ', another training'}", text)
    if planned.taps is not None:
        _add_taps(table, planned.taps, config)
    if planned.probe is not None:
        _add_times(table, planned, config, of_parts)
    return table


def _images_of_step(config: Config) -> str:
    most = config.trainer.micro_batch
    return f"batch {config.data.batch_size}" + (f", {most} at a time" if most else "")


def _add_taps(table: Table, taps: Any, config: Config) -> None:
    for split, bytes_ in taps.bytes.items():
        images = f"{amounts.size(bytes_)} ({taps.images[split]:,} images)"
        table.add_row(f"kept taps of the {_SPLITS[split]} images", images)
    table.add_row(f"taps={config.taps.mode} keeps them", _PLACES.get(taps.mode) or f"nowhere: {taps.why}")


def _add_times(table: Table, planned: Any, config: Config, of_parts: bool) -> None:
    probe, taps = planned.probe, planned.taps
    kept = taps is not None and taps.mode != "off"
    where = f"{probe.device}, batch {probe.batch}" + (", from kept taps" if kept else "")
    table.add_row(f"time of a step, measured ({where})", f"about {amounts.seconds(probe.step)}")
    if kept:
        table.add_row("of computing the taps once", f"about {amounts.seconds(probe.filling)}")
    table.add_row("of predicting for the test images", f"about {amounts.seconds(probe.evaluating)}")
    epochs = f"{amounts.plural(probe.epochs, 'epoch')} of {amounts.plural(probe.steps, 'step')}"
    if of_parts:
        _add_parts(table, probe)
    table.add_row(f"of the run, {epochs}, without reading images", f"about {amounts.seconds(probe.run)}")
    if of_parts and probe.price is not None:
        price = f"{config.costs.price:g} an hour"
        table.add_row(f"price of the run (costs.price={price})", f"about {amounts.plain(probe.price, 3)}")
    if of_parts and probe.joules is not None:
        table.add_row("energy of training and test, by costs.watts", f"about {amounts.joules(probe.joules)}")


def _add_parts(table: Table, probe: Any) -> None:
    """What the time of the run is made of, and a prediction for one image."""
    table.add_row("of training in all epochs", f"about {amounts.seconds(probe.training)}")
    if probe.validating:
        table.add_row("of validation in all epochs", f"about {amounts.seconds(probe.validating)}")
    if probe.latency is not None:
        table.add_row("of predicting for one image (latency)", amounts.milliseconds(probe.latency))


_SPLITS = {"train": "training", "val": "validation"}
_PLACES = {
    "disk": "on disk, for other runs too",
    "gpu": "in the GPU's memory, for this run",
    "memory": "in memory, for this run",
}


COMMAND = Command(
    "plan",
    "what a run would train, layer by layer, and what a step would take",
    print_plan,
    (
        Argument("json", "as JSON", kind="flag", default=False),
        Argument("memory", "also what a step would take in ways that need less memory", kind="flag", default=False),
        Argument("probe", "also time two batches on this machine", kind="flag", default=False),
        Argument("time", "as probe, with the parts of a run, latency and price", kind="flag", default=False),
        CONFIG_DIR,
    ),
    takes_overrides=True,
    description="Nothing is trained and no weights are read: the model is built without memory. With --time or\n"
    "--probe it is built, and steps on noise are timed. VTAB's tasks need no images here.",
    examples=(
        "peftbench plan method=petah backbone=efficientformer_l1 data=digits",
        "peftbench plan method=losa backbone=vit_g data=digits --json",
        "peftbench plan method=losa backbone=vit_b data=vtab/cifar time=true costs.price=2.5",
        "peftbench plan method=full backbone=vit_s data=digits memory=true",
    ),
)
