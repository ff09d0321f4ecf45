"""`peftbench choose [FOLDER …] [max_memory=… max_minutes=… …]`: which method, within a budget if any."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.cli.report import FOLDERS, METRIC, record_places
from peftbench.common.errors import UserError, nearest
from peftbench.common.status_line import doing
from peftbench.common.terminal import visible
from peftbench.common.vtab_tasks import ALIASES

if TYPE_CHECKING:
    from peftbench.results.answers import Answer
    from peftbench.results.board import Board
    from peftbench.results.choice import Candidate, Limit
    from peftbench.results.questions import Question
    from peftbench.results.suggestions import Elsewhere
    from peftbench.results.summary import Run
    from peftbench.results.validation import Trials

_BUDGET = ("max_memory", "max_minutes", "max_params", "max_joules", "max_price")


def print_choice(words: Words) -> int:
    """Prints an answer for every task, and one over all of them; returns 1 where nothing fits anywhere.

    Raises:
        UserError: an amount that cannot be read, a metric of shifted images or one of which less is better, or no
            records.
    """
    from peftbench.results.boards import boards
    from peftbench.results.choice import limits
    from peftbench.results.collect import collect
    from peftbench.results.questions import questions
    from peftbench.results.suggestions import CLOSING
    from peftbench.results.task_results import less_is_better
    from peftbench.results.validation import Trials

    if (words["metric"] or "").partition("/")[0] == "ood":
        raise UserError(
            f"metric={words['metric']}: is of shifted test images, which tell how far a choice carries and must not "
            f"make it; peftbench report shows them beside what is chosen by, such as metric=test/accuracy."
        )
    bounds = limits({key: words[key] for key in words.written if key in _BUDGET})
    places = record_places(words["folders"])
    doing("reading the records")
    collected = collect(places)
    if words["metric"] and less_is_better(words["metric"]):  # as the tasks of these records say
        raise UserError(
            f"metric={words['metric']}: less of it is better; give one of which more is, as test/accuracy is."
        )
    all_boards = boards(collected.runs, words["metric"], every_setting=True, joint=True)
    tasks = list(dict.fromkeys(task for board in all_boards for task in board.tasks))
    if not tasks:
        raise UserError(
            f"choose {places[0]}: none of the {len(collected.runs)} records is complete with "
            f"{words['metric'] or 'what its task is judged by on test images'}."
        )
    asked = questions(all_boards, together=True)
    elsewhere = _elsewhere(words["prior"], collected.runs)
    if words["data"]:
        wanted = (_task_named(words["data"], tasks, elsewhere),)
        asked = [question for question in asked if question.tasks == wanted]
    asked.sort(key=lambda question: len(question.tasks) > 1)
    _say(_budget(bounds))
    trials = Trials(collected.runs)
    fitted, suggests = [], False
    for question in asked:
        answer = _print_answer(question, bounds, trials, collected.runs)
        fitted.append(answer is not None)
        for sentence in [] if elsewhere is None else elsewhere.suggested(question, answer):
            _say(f"  {sentence}")
            suggests = True
    if suggests:
        _say(f"\n{CLOSING}")
    _print_notes(all_boards, tasks)
    for note in collected.left_out():
        _say(note)
    if collected.skipped:
        _say(f"skipped: {len(collected.skipped)} files that are no records, such as {collected.skipped[0][0]}")
    return 0 if any(fitted) else 1


def _say(text: str) -> None:
    """Prints lines; on a terminal they are broken between words, and what follows stands a little to the right."""
    from peftbench.common.fitted_table import fold

    if not sys.stdout.isatty():
        print(visible(text))
        return
    width = shutil.get_terminal_size().columns
    for line in text.split("\n"):
        print(visible(fold(line, width, indent="    " if line.startswith(" ") else "  ")))


def _budget(bounds: Sequence[Limit]) -> str:
    given = [f"{bound.key}={bound.written}" for bound in bounds if bound.written]
    keys = [f"{key}=" for key in _BUDGET]
    return f"within {', '.join(given)}" if given else f"without a budget; {', '.join(keys[:-1])} and {keys[-1]} set one"


def _elsewhere(prior: str | None, runs: Sequence[Run]) -> Elsewhere | None:
    """What runs on other data sets suggest; None where it is not asked for. Raises UserError."""
    from peftbench.results.suggestions import Elsewhere

    if prior not in (None, "records", "none"):
        raise UserError(f"prior={prior}: expected records, the default, or none.")
    return None if prior == "none" else Elsewhere(runs)


def _task_named(name: str, tasks: Sequence[str], elsewhere: Elsewhere | None) -> str:
    """The task of the records that `data=` names, by its name or an alias of VTAB's.

    Raises:
        UserError: there is no record of it; says what is to be tried first, by the others.
    """
    family, _, task = name.partition("/")
    if family == "vtab":
        name = f"vtab/{ALIASES.get(task, task)}"
    if name not in tasks:
        first = "" if elsewhere is None else elsewhere.first()
        raise UserError(
            f"data={name}: no record is of it{nearest(name, tasks)}; there are {', '.join(tasks)}"
            f"{'; ' if first else ''}{first}."
        )
    return name


def _print_notes(all_boards: Sequence[Board], tasks: Sequence[str]) -> None:
    from peftbench.results.answer_text import TIME_IN_WORDS

    _say(f"\n{TIME_IN_WORDS}")
    if len({dict(board.basis)["input"] for board in all_boards if any(t in board.tasks for t in tasks)}) > 1:
        _say("\nThe input differs between some of these: peftbench report says in what.")


def _print_answer(question: Question, bounds: Sequence[Limit], trials: Trials, runs: Sequence[Run]) -> Answer | None:
    """Prints the one to take: the cheapest of what is not told apart from the highest of all that fit the budget.

    Returns the answer; None where nothing fits.
    """
    from peftbench.results.answer_text import beside_the_highest, rank, verdict
    from peftbench.results.answers import answer_to, not_compared
    from peftbench.results.choice import candidates, closest, one_setting_each, spent_told
    from peftbench.results.telling import tell

    every = candidates(question, bounds)
    told = spent_told(every, bounds)
    fitting = one_setting_each([c for c in every if not c.over], question.tasks, trials)
    if not fitting:
        close = closest(every, question.tasks, trials)
        _say(f"\n{question.name}: nothing fits. Nearest: {_line(close, question.tasks, bounds)}")
        _say("\n".join([f"  over {_excess(close, bounds)}", *(f"  {line}" for line in told)]))
        return None
    answer = answer_to(question, [c.contender for c in fitting])
    answer.left_out = not_compared(answer, [c.contender for c in every], runs)
    taken = next(c for c in fitting if c.contender is answer.taken)
    highest = next(c for c in fitting if c.contender is answer.highest)
    _say(f"\n{question.name}: {_line(taken, question.tasks, bounds)}")
    if taken is not highest:
        _say(f"  highest: {_line(highest, question.tasks, bounds)}")
    first = verdict(answer)
    over = one_setting_each([c for c in every if c.over], question.tasks, trials)
    if taken is highest and answer.tellings:
        within = " within the budget" if over else ""
        first = f"It is the {rank(answer).lower()}{within}. {first}".strip()
    elif over and not answer.tellings:
        first = "It is the only one within the budget."
    for sentence in (first, *beside_the_highest(answer), *told):
        if sentence:
            _say(f"  {sentence}")
    if over and over[0].contender.value > answer.highest.value:
        apart = tell(over[0].row, highest.row, question.tasks, question.metric).apart
        word = "better" if apart else "higher, inside the noise"
        _say(f"  {word}, but over {_excess(over[0], bounds)}: {_line(over[0], question.tasks, bounds)}")
    return answer


def _line(candidate: Candidate, tasks: Sequence[str], bounds: Sequence[Limit]) -> str:
    """Name, figure and mean costs: `lora: 98.4 % (1 seed), 45.0 s to train, 1.0 GB at its peak, 40,000 parameters`."""
    from peftbench.results.answer_text import IN_WORDS, in_seeds, reached
    from peftbench.results.cheapest import MEMORY, PARAMETERS, TIME, cost_of, leaves_out_filling, machines_of
    from peftbench.results.choice import most_spent

    row = candidate.row
    machines = len(machines_of(row, tasks))
    over = f" (mean over {machines} machines)" if machines > 1 else ""
    units = {TIME: f"to train{over}", MEMORY: "at its peak", PARAMETERS: "parameters"}
    costs = {cost: value for cost in units if (value := cost_of(row, tasks, cost)) is not None}
    parts = [f"{reached(candidate.contender)} ({in_seeds([len(row.runs[task]) for task in tasks])})"]
    parts += [f"{IN_WORDS[cost][1](value)} {units[cost]}" for cost, value in costs.items()]
    parts += most_spent(candidate, bounds)
    if row.times:
        there = " that were there already, so that filling them is not in the time"
        parts.append(f"{row.times}{there if leaves_out_filling(row, tasks) else ''}")
    if candidate.choice.by:
        parts.append(f"setting {candidate.choice}")
    return f"{candidate.contender.name}: {', '.join(parts)}"


def _excess(candidate: Candidate, bounds: Sequence[Limit]) -> str:
    from peftbench.results.choice import times_over

    parts = []
    for bound in bounds:
        if bound.key in candidate.over:
            value, factor = candidate.worst[bound.key], candidate.over[bound.key]
            reached = "not recorded" if value is None else f"{bound.form(value)}, {times_over(factor)}"
            parts.append(f"{bound.key}={bound.written} ({reached})")
    return " and ".join(parts)


COMMAND = Command(
    "choose",
    "which method: the cheapest of the best, within a budget",
    print_choice,
    (
        FOLDERS,
        Argument("max_memory", "peak memory of training", placeholder="2GB", shown=True),
        Argument("max_minutes", "minutes of training", placeholder="10", shown=True),
        Argument("max_params", "parameters of the method", placeholder="0.4M", shown=True),
        Argument("max_joules", "energy of training and test", placeholder="20kJ", shown=True),
        Argument("max_price", "money, where runs had costs.price", placeholder="0.5", shown=True),
        Argument("data", "one data set; all if none is given", placeholder="NAME"),
        METRIC,
        Argument("prior", "none: no word on what to try next, by other data sets", placeholder="none"),
    ),
    examples=(
        "peftbench choose outputs",
        "peftbench choose outputs max_memory=2GB max_minutes=10",
        "peftbench choose outputs max_params=0.4M data=vtab/cifar",
        "peftbench choose outputs max_joules=20kJ max_price=0.5",
    ),
)
