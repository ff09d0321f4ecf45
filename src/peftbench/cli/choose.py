"""`peftbench choose [FOLDER …] max_memory=… max_minutes=… max_params=…`: which method, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.cli.options import parse
from peftbench.common.amounts import plural
from peftbench.common.errors import UserError, nearest
from peftbench.common.vtab_tasks import ALIASES
from peftbench.results.board import Board, Row
from peftbench.results.boards import boards
from peftbench.results.choice import Candidate, Limit, candidates, cheaper, limits
from peftbench.results.collect import collect
from peftbench.results.task_results import percent

_OPTIONS: dict[str, Sequence[str] | None] = {
    "max_memory": None,
    "max_minutes": None,
    "max_params": None,
    "data": None,
    "metric": None,
}
_SHOWN = 5


def run(arguments: list[str]) -> int:
    """Prints an answer for every task, and one over all of them; returns 1 where nothing fits anywhere.

    Raises:
        UserError: no budget, an amount that cannot be read, or no records.
    """
    places, options = parse("choose", arguments, _OPTIONS)
    bounds = limits(options)
    if not bounds:
        raise UserError("choose: needs a budget, such as max_memory=2GB max_minutes=10 max_params=0.4M.")
    collected = collect(places)
    found = boards(collected.runs, options.get("metric"))
    tasks = list(dict.fromkeys(t for b in found for t in b.tasks))
    if not tasks:
        raise UserError(
            f"choose {places[0]}: none of the {len(collected.runs)} records is complete with "
            f"{options.get('metric') or 'what its task is judged by on test images'}."
        )
    if "data" in options:
        family, _, task = options["data"].partition("/")
        name = f"vtab/{ALIASES.get(task, task)}" if family == "vtab" else options["data"]
        if name not in tasks:
            raise UserError(f"data={name}: no record is of it{nearest(name, tasks)}; there are {', '.join(tasks)}.")
        tasks = [name]
    print("within " + ", ".join(f"{b.key}={b.written}" for b in bounds))
    fitted = [_answer(found, [task], task, bounds) for task in tasks]
    for metric in dict.fromkeys(b.metric for b in found):  # figures of one metric have a mean
        alike = [t for t in tasks if any(t in b.tasks for b in found if b.metric == metric)]
        if len(alike) > 1 and candidates(found, alike, bounds):
            fitted.append(_answer(found, alike, f"all {len(alike)} tasks", bounds))
    if any(b.key == "max_minutes" for b in bounds) and any(row.times for b in found for row in b.rows):
        print("\nMinutes are of training, validation and filling taps; where taps were there, filling is not in them.")
    if any(len([b for b in found if t in b.tasks]) > 1 for t in tasks):
        print("\nBackbones, inputs or splits differ between some of these: peftbench report says in what.")
    if collected.skipped:
        print(f"skipped: {len(collected.skipped)} files that are no records, such as {collected.skipped[0][0]}")
    return 0 if any(fitted) else 1


def _answer(found: Sequence[Board], tasks: Sequence[str], name: str, bounds: Sequence[Limit]) -> bool:
    every = candidates(found, tasks, bounds)
    if not every:
        print(f"\n{name}: no method has a complete run on each of them.")
        return False
    fitting = [c for c in every if not c.over]
    if not fitting:
        close = min(every, key=lambda c: (c.miss, -c.value))
        print(f"\n{name}: nothing fits. Nearest: {_line(close, found, bounds)}")
        print(f"  over {_excess(close, bounds)}")
        return False
    best = fitting[0]
    print(f"\n{name}: {_line(best, found, bounds)}")
    for other, what in cheaper(best, fitting, tasks)[:_SHOWN]:
        print(f"  inside its noise with less {what}: {_line(other, found, bounds)}")
    better = [c for c in every if c.over and c.value > best.value]
    if better:
        print(f"  better, but over {_excess(better[0], bounds)}: {_line(better[0], found, bounds)}")
    return True


def _line(candidate: Candidate, found: Sequence[Board], bounds: Sequence[Limit]) -> str:
    basis = dict(candidate.board.basis)
    row = candidate.row
    half = "" if candidate.half is None else f" ± {100 * candidate.half:.1f}"
    costs = [f"{b.form(v)} {_WORDS[b.key]}" for b in bounds if (v := candidate.worst[b.key]) is not None]
    where = f" on {_name(row)} ({basis['input']})" if len(found) > 1 else ""
    kind = f", {row.times}" if row.times else ""
    reached = f"{100 * candidate.value:.1f}{half} {percent(candidate.board.metric)}"
    return f"{row.label}{where}: {reached} ({plural(row.seeds, 'seed')}), {', '.join(costs)}{kind}"


_WORDS = {"max_memory": "at its peak", "max_minutes": "to train", "max_params": "parameters"}


def _name(row: Row) -> str:
    return next(run.backbone for runs in row.runs.values() for run in runs)


def _excess(candidate: Candidate, bounds: Sequence[Limit]) -> str:
    parts = []
    for bound in bounds:
        if bound.key in candidate.over:
            value = candidate.worst[bound.key]
            told = "not recorded" if value is None else f"{bound.form(value)}, {candidate.over[bound.key]:.2g} times"
            parts.append(f"{bound.key}={bound.written} ({told})")
    return " and ".join(parts)
