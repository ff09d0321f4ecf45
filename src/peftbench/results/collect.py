"""Any number of records, read for a report."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.results.record import FILE, read_record
from peftbench.results.summary import Run, Shared, summarise


@dataclass
class Collected:
    """The runs of a report, and what it leaves out.

    `skipped` are files that are no records of ours, `repeated` further records of a run id, each with the reason.
    `trials` counts records of `trainer.trial`, as debug=smoke makes them; `cut_short` those of `trainer.max_batches`,
    which are left out where there are whole runs: their figures are of a part of the images.
    """

    runs: list[Run] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    trials: int = 0
    cut_short: int = 0

    def left_out(self) -> list[str]:
        """A sentence on each kind of records that are left out because they are of a few batches."""
        notes = []
        if self.trials:
            notes.append(f"{plural(self.trials, 'record')} of debug=smoke {_is(self.trials)} left out.")
        if self.cut_short:
            notes.append(
                f"{plural(self.cut_short, 'record')} of trainer.max_batches {_is(self.cut_short)} left out: the "
                f"figures are of a part of the images."
            )
        return notes


def collect(places: Sequence[Path]) -> Collected:
    """Every record below the given folders; hidden folders (replaced runs, lists of sweeps) are left out.

    It skips and names what is no record, or of another version. Where two records are of one run, the complete one
    counts, or else the first.

    Raises:
        UserError: a folder that does not exist, or no record at all.
    """
    collected = Collected()
    running = gc.isenabled()
    gc.disable()  # what is parsed has no cycles, and there is much of it
    try:
        _add_all(places, collected)
    finally:
        if running:
            gc.enable()
    if not collected.runs:
        tried = ", ".join(str(place) for place in places)
        if collected.trials:
            raise UserError(f"{tried}: holds no record but {collected.trials} of debug=smoke, which no report shows.")
        skipped = collected.skipped
        bad = f" ({plural(len(skipped), 'file')} called {FILE} cannot be used: {skipped[0][1]})" if skipped else ""
        raise UserError(f"{tried}: holds no record of a run{bad}; a run leaves one in <output_dir>/<run id>/{FILE}.")
    return collected


def _add_all(places: Sequence[Path], collected: Collected) -> None:
    index: dict[str, int] = {}
    cut_short: set[str] = set()
    shared = Shared()
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: there is no such folder; give one with run folders in it, such as outputs.")
        for folder in _folders_with_a_record(place):
            try:
                record = read_record(folder)
                if record is None:  # removed since
                    continue
                run = summarise(record, shared)
                trainer = record.config.get("trainer") or {}
            except UserError as problem:
                collected.skipped.append((str(folder / FILE), str(problem).partition(": ")[2]))
                continue
            if trainer.get("trial"):
                collected.trials += 1
                continue
            if trainer.get("max_batches"):
                cut_short.add(run.id)
            _add(collected, index, run)
    whole = [run for run in collected.runs if run.id not in cut_short]
    if whole and len(whole) < len(collected.runs):
        collected.cut_short = len(collected.runs) - len(whole)
        collected.runs = whole


def _add(collected: Collected, index: dict[str, int], run: Run) -> None:
    """`index`: where the run of an id stands in `collected.runs`."""
    at = index.get(run.id)
    if at is None:
        index[run.id] = len(collected.runs)
        collected.runs.append(run)
        return
    first = collected.runs[at]
    if run.folder == first.folder:  # the same folder was given twice
        return
    if run.status == "complete" and first.status != "complete":
        collected.runs[at], run, first = run, first, run
    figures = "the same figures" if run.metrics == first.metrics else "other figures"
    collected.repeated.append(
        (run.folder, f"is of run {run.id} like {first.folder}, with {figures}; the latter counts.")
    )


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _folders_with_a_record(place: Path) -> Iterator[Path]:
    """In order of their names."""
    if place.is_file():
        if place.name == FILE:
            yield place.resolve().parent
        return
    for root, folders, files in os.walk(place, followlinks=False):
        if FILE in files:
            folders.clear()
            yield Path(root).resolve()
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
