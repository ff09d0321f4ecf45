"""A run that is there already under an id: whether it is whole and this run's own, and what is done where it is not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from peftbench import config, deltas
from peftbench.common import terminal
from peftbench.common.amounts import agreeing
from peftbench.common.errors import Refusal, UserError
from peftbench.results import Record, read_record
from peftbench.results.labels import data_name
from peftbench.results.record import FILE as RECORD
from peftbench.runs.context import Context
from peftbench.runs.folder import CONFIG, set_aside, write_config
from peftbench.runs.plan_file import plan_hash, read_plan


def finished_before(
    context: Context, folder: Path, id_: str, classes: Sequence[str], categories: Sequence[int]
) -> Record | None:
    """The record of a run that is not to be carried out again; None where it is, because it is not there or not whole.

    Of a complete run the record, the delta, the plan and the config are checked. What is not this run's own, or is
    damaged, is set aside, which is said. Classes that the data call otherwise by now are called so in the run, too.

    Args:
        context: of the run.
        folder: the run's.
        id_: the run's.
        classes: the names of the classes in the data as they are now.
        categories: their numbers in the data set's own files, where it has such.

    Raises:
        UserError: the record is damaged.
        Refusal: the data have another number of classes by now, or other categories; the delta is of a later version.
    """
    record = read_record(folder, "; remove it, or give force=true, to run this again")
    if record is None:
        return None
    if record.id != id_:
        names = [RECORD] if _is_of(folder, id_) else None
        _begin_anew(context, folder, names, f"{RECORD} is of another run ({record.id})")
        return None
    if record.status == "failed" and not context.retry:
        return record
    if record.status != "complete":
        return None
    try:
        tensors, metadata = deltas.load_delta(folder / deltas.FILE)
        if metadata["run"] != id_:
            raise UserError(f"{folder / deltas.FILE}: is of another run ({metadata['run']}).")
    except Refusal:
        raise
    except UserError as problem:
        _begin_anew(context, folder, [deltas.FILE, RECORD], str(problem).removeprefix(f"{folder}/").rstrip("."))
        return None
    if problem_of_plan := _plan_problem(folder, metadata.get("plan")):
        _begin_anew(context, folder, None, problem_of_plan)
        return None
    if context.first and not config.is_of_same_run(folder / CONFIG, context.config):
        kept = set_aside(folder, [CONFIG])
        write_config(folder, context.config)
        _say(f"{folder}: {CONFIG} was not as the run left it, and is written anew; what was there is kept in {kept}")
    old_classes = json.loads(metadata["classes"])
    old_categories = json.loads(metadata.get("categories", "[]"))
    _refuse_other_classes(context, folder, (old_classes, old_categories), (classes, categories))
    if list(classes) != old_classes and context.first:
        changed = [[old, new] for old, new in zip(old_classes, classes, strict=True) if old != new]
        metadata = {"task": context.config.task.name, **metadata, "classes": json.dumps(list(classes))}
        record.costs["delta_bytes"] = deltas.save_delta(folder / deltas.FILE, tensors, metadata)
        stamp = record.stamps["data"] = record.stamps.get("data") or {}
        stamp["renamed"] = [*(stamp.get("renamed") or ()), *changed]
        record.write(folder)
        began = " (the run began from rows of task.weights that the old names chose)" if "task" in record.stamps else ""
        _say(
            f"{folder}: {len(changed)} of {len(old_classes)} classes "
            f"{agreeing(len(changed), 'has another name', 'have other names')} in the data by now, such as "
            f"{changed[0][1]!r} instead of {changed[0][0]!r}; delta and record have them now{began}"
        )
    old_name, new_name = data_name(record.config), data_name(context.config.to_dict())
    if old_name != new_name and context.first:
        _say(
            f"{folder}: was carried out on the same images, which were called {old_name} then, and tables still call "
            f"them so; force=true repeats the run as {new_name}"
        )
    return record


def _is_of(folder: Path, id_: str) -> bool:
    """Whether the delta in a folder is of this run."""
    with contextlib.suppress(UserError):
        return deltas.load_delta(folder / deltas.FILE)[1]["run"] == id_
    return False


def _plan_problem(folder: Path, bound: str | None) -> str:
    """What is wrong with the plan that a delta was made with; the empty string where nothing is."""
    try:
        plan = read_plan(folder, bound)
    except UserError as problem:
        return str(problem).partition(";")[0].rstrip(".").removeprefix(f"{folder}/")
    return "" if bound in (None, plan_hash(plan)) else "its plan is not the one that its delta was made with"


def _refuse_other_classes(
    context: Context,
    folder: Path,
    before: tuple[Sequence[str], Sequence[int]],
    now: tuple[Sequence[str], Sequence[int]],
) -> None:
    """Raises Refusal where the classes of a run and those of its data are no longer the same ones."""
    again = "give force=true to run anew (the run that is there is kept beside it)"
    if len(before[0]) != len(now[0]):
        raise Refusal(
            f"{folder}: was trained on {len(before[0])} classes, and data={context.config.data.name} has {len(now[0])} "
            f"by now; {again}."
        )
    if before[1] and now[1] and list(before[1]) != list(now[1]):
        old, new = next((a, b) for a, b in zip(before[1], now[1], strict=False) if a != b)
        raise Refusal(
            f"{folder}: was trained on a category with id {old}, which has id {new} in data={context.config.data.name} "
            f"by now; {again}."
        )


def _begin_anew(context: Context, folder: Path, names: Sequence[str] | None, why: str) -> None:
    """Sets files of the folder aside, or all of it, and says so: the run is carried out again."""
    if context.first:
        kept = set_aside(folder, names)
        _say(f"{folder}: {why}, so that this run is carried out again; what was there is kept in {kept}")


def _say(text: str) -> None:
    terminal.console(stderr=True).print(text, highlight=False, soft_wrap=True, markup=False)
