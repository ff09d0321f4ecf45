"""`peftbench choose [FOLDER …] max_memory=… max_minutes=… max_params=…`: which method, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.cli.report import FOLDERS, METRIC, record_places
from peftbench.common.errors import UserError, nearest
from peftbench.common.status_line import doing
from peftbench.common.vtab_tasks import ALIASES

if TYPE_CHECKING:
    from peftbench.results.board import Board, Row
    from peftbench.results.choice import Candidate, Limit
    from peftbench.results.validation import Trials

_BUDGET = {"max_memory": "at its peak", "max_minutes": "to train", "max_params": "parameters"}
_SHOWN = 5


def print_choice(words: Words) -> int:
    """Prints an answer for every task, and one over all of them; returns 1 where nothing fits anywhere.

    Raises:
        UserError: no budget, an amount that cannot be read, or no records.
    """
    from peftbench.results.boards import boards
    from peftbench.results.choice import candidates, limits
    from peftbench.results.collect import collect
    from peftbench.results.validation import Trials

    bounds = limits({key: words[key] for key in words.written if key in _BUDGET})
    if not bounds:
        raise UserError("choose: needs a budget, such as max_memory=2GB max_minutes=10 max_params=0.4M.")
    places = record_places(words["folders"])
    doing("reading the records")
    collected = collect(places)
    all_boards = boards(collected.runs, words["metric"], every_setting=True)
    trials = Trials(collected.runs)
    tasks = list(dict.fromkeys(task for board in all_boards for task in board.tasks))
    if not tasks:
        raise UserError(
            f"choose {places[0]}: none of the {len(collected.runs)} records is complete with "
            f"{words['metric'] or 'what its task is judged by on test images'}."
        )
    if words["data"]:
        tasks = [_task_named(words["data"], tasks)]
    print("within " + ", ".join(f"{b.key}={b.written}" for b in bounds))
    fitted = [_print_answer(all_boards, [task], task, bounds, trials) for task in tasks]
    for metric in dict.fromkeys(b.metric for b in all_boards):  # figures of one metric have a mean
        alike = [t for t in tasks if any(t in b.tasks for b in all_boards if b.metric == metric)]
        if len(alike) > 1 and candidates(all_boards, alike, bounds):
            fitted.append(_print_answer(all_boards, alike, f"all {len(alike)} tasks", bounds, trials))
    _print_notes(all_boards, tasks, bounds)
    for note in collected.left_out():
        print(note)
    if collected.skipped:
        print(f"skipped: {len(collected.skipped)} files that are no records, such as {collected.skipped[0][0]}")
    return 0 if any(fitted) else 1


def _task_named(name: str, tasks: Sequence[str]) -> str:
    """The task of the records that `data=` names, by its name or an alias of VTAB's. Raises UserError."""
    family, _, task = name.partition("/")
    if family == "vtab":
        name = f"vtab/{ALIASES.get(task, task)}"
    if name not in tasks:
        raise UserError(f"data={name}: no record is of it{nearest(name, tasks)}; there are {', '.join(tasks)}.")
    return name


def _print_notes(all_boards: Sequence[Board], tasks: Sequence[str], bounds: Sequence[Limit]) -> None:
    if any(b.key == "max_minutes" for b in bounds) and any(row.times for b in all_boards for row in b.rows):
        print("\nMinutes are of training, validation and filling taps; where taps were there, filling is not in them.")
    if any(len([b for b in all_boards if t in b.tasks]) > 1 for t in tasks):
        print("\nBackbones, inputs or splits differ between some of these: peftbench report says in what.")


def _print_answer(
    all_boards: Sequence[Board], tasks: Sequence[str], name: str, bounds: Sequence[Limit], trials: Trials
) -> bool:
    from peftbench.results.choice import candidates, cheaper, closest, one_setting_each

    every = candidates(all_boards, tasks, bounds)
    if not every:
        print(f"\n{name}: no method has a complete run on each of them.")
        return False
    fitting = one_setting_each([c for c in every if not c.over], tasks, trials)
    if not fitting:
        close = closest(every, tasks, trials)
        print(f"\n{name}: nothing fits. Nearest: {_line(close, all_boards, bounds)}")
        print(f"  over {_excess(close, bounds)}")
        return False
    best = fitting[0]
    print(f"\n{name}: {_line(best, all_boards, bounds)}")
    for other, what in cheaper(best, fitting, tasks)[:_SHOWN]:
        print(f"  inside its noise with less {what}: {_line(other, all_boards, bounds)}")
    over = one_setting_each([c for c in every if c.over], tasks, trials)
    better = [c for c in over if c.value > best.value]
    if better:
        print(f"  better, but over {_excess(better[0], bounds)}: {_line(better[0], all_boards, bounds)}")
    return True


def _line(candidate: Candidate, all_boards: Sequence[Board], bounds: Sequence[Limit]) -> str:
    from peftbench.results.task_results import percent

    basis = dict(candidate.board.basis)
    row = candidate.row
    half = "" if candidate.half is None else f" ± {100 * candidate.half:.1f}"
    worst = {b: candidate.worst[b.key] for b in bounds}
    costs = [f"{b.form(value)} {_BUDGET[b.key]}" for b, value in worst.items() if value is not None]
    where = f" on {_name(row)} ({basis['input']})" if len(all_boards) > 1 else ""
    kind = f", {row.times}" if row.times else ""
    seeds = f"{row.seeds} seed" if row.seeds == "1" else f"{row.seeds} seeds"
    reached = f"{100 * candidate.value:.1f}{half} {percent(candidate.board.metric)}"
    choice = f", setting {candidate.choice}" if candidate.choice.by else ""
    return f"{row.label}{where}: {reached} ({seeds}), {', '.join(costs)}{kind}{choice}"


def _name(row: Row) -> str:
    return next(run.backbone for runs in row.runs.values() for run in runs)


def _excess(candidate: Candidate, bounds: Sequence[Limit]) -> str:
    parts = []
    for bound in bounds:
        if bound.key in candidate.over:
            value = candidate.worst[bound.key]
            reached = "not recorded" if value is None else f"{bound.form(value)}, {candidate.over[bound.key]:.2g} times"
            parts.append(f"{bound.key}={bound.written} ({reached})")
    return " and ".join(parts)


COMMAND = Command(
    "choose",
    "which method, within a budget",
    print_choice,
    (
        FOLDERS,
        Argument("max_memory", "peak memory of training", placeholder="2GB", shown=True),
        Argument("max_minutes", "minutes of training", placeholder="10", shown=True),
        Argument("max_params", "parameters of the method", placeholder="0.4M", shown=True),
        Argument("data", "one data set; all if none is given", placeholder="NAME"),
        METRIC,
    ),
    examples=(
        "peftbench choose outputs max_memory=2GB max_minutes=10",
        "peftbench choose outputs max_params=0.4M data=vtab/cifar",
    ),
)
