"""The answers as what stands first in a report: sentences for a few data sets, a row for each of many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from peftbench.results.answer_text import (
    IN_WORDS,
    TIME_IN_WORDS,
    in_seeds,
    left_out_of,
    of_few_seeds,
    points,
    rank,
    reached,
    sentences,
    title_of,
    uncompared,
)
from peftbench.results.answers import Answer
from peftbench.results.cheapest import COSTS, TIME
from peftbench.results.questions import Contender
from peftbench.results.stats import LEAST_PAIRS
from peftbench.results.telling import IMAGES
from peftbench.results.text_table import Heading, TextTable, listed, some

TITLE = "Which method?"
FEW = 4
"""Answers on single data sets that are said in sentences; of more each is a row."""


def answer_tables(answers: Sequence[Answer]) -> list[TextTable]:
    """For every data set the highest, what is inside its noise, the cheapest of these, and what was not compared.

    A table for each answer has its sentences alone; the last has a row for each data set, where there are many.
    """
    single = [answer for answer in answers if len(answer.tasks) == 1]
    in_rows = single if len(single) > FEW else []
    in_words = [answer for answer in answers if answer not in in_rows]
    tables = [TextTable(f"{TITLE} {title_of(answer)}", [], text=sentences(answer)) for answer in in_words]
    if in_rows:
        tables.append(_rows(in_rows))
    if tables and any(answer.level and answer.cheapest[TIME].compared for answer in answers):
        tables[-1].notes.append(TIME_IN_WORDS)
    return tables


def answer_table(answers: Sequence[Answer]) -> TextTable:
    """The same of at least one answer as one table, in which each has a heading."""
    tables = answer_tables(answers)
    last = tables[-1]
    whole = TextTable(TITLE, last.columns, last.rows, last.notes, label="answers")
    for table in tables:
        if table.text:
            whole.text += [Heading(table.title.removeprefix(f"{TITLE} ")), *table.text]
    return whole


def _rows(answers: Sequence[Answer]) -> TextTable:
    columns = [("data set", False), ("images", True), ("highest", False), ("%", True)]
    columns += [("seeds", True), ("inside its noise", True)]
    needed = any(_needed(answer) != "–" for answer in answers)
    columns += [("points to tell", True)] if needed else []
    costs = [cost for cost in COSTS if any(answer.has_cheapest(cost) for answer in answers)]
    columns += [(f"cheapest by {IN_WORDS[cost][0]}", False) for cost in costs]
    table = TextTable(f"{TITLE} By data set", columns)
    for answer in answers:
        images = "–" if answer.images is None else f"{answer.images:,}"
        others = len(answer.contenders) - 1
        level = f"{len(answer.level)} of {others}" if others else "–"
        figure = reached(answer.highest).partition(" %")[0]
        seeds = in_seeds(answer.seeds).partition(" ")[0]
        row = [answer.name.removeprefix("vtab/"), images, _highest(answer), figure, seeds, level]
        row += [_needed(answer)] if needed else []
        table.rows.append([*row, *(_cheapest(answer, cost) for cost in costs)])
    table.notes.append(
        "Inside its noise are so many of the others; the cheapest is among the highest and these. (best) is higher "
        "than each of the others by more than the noise, also after correction for so many comparisons (Holm)."
    )
    if needed:
        table.notes.append("Points to tell are about the least difference that so many images tell apart.")
    if few := _by_data_set(answers, of_few_seeds):
        table.notes.append(
            f"Fewer than {LEAST_PAIRS} seeds that a method shares with the highest do not say what another seed "
            f"changes: {few}."
        )
    if optimistic := _by_data_set(answers, _optimistic):
        table.notes.append(f"Chosen on test, so that its figure is too high: {optimistic}.")
    return _with_sentences(table, answers)


def _highest(answer: Answer) -> str:
    best = " (best)" if rank(answer) == "Best" else ""
    return f"{answer.highest.name}{best}{' (optimistic)' if answer.is_optimistic(answer.highest) else ''}"


def _needed(answer: Answer) -> str:
    """The least difference that counting images tells apart, where that is what tells."""
    by_images = any(telling.by == IMAGES for telling in answer.known)
    return "–" if answer.least is None or not by_images else points(answer.least).partition(" ")[0]


def _optimistic(answer: Answer) -> list[Contender]:
    return [contender for contender in answer.alike if answer.is_optimistic(contender)]


def _by_data_set(answers: Sequence[Answer], which: Callable[[Answer], Sequence[Contender]]) -> str:
    """`lora (digits, photos); full (all)`; empty where there are none."""
    data_sets: dict[str, list[str]] = defaultdict(list)
    for answer in answers:
        for contender in which(answer):
            data_sets[contender.name].append(answer.name.removeprefix("vtab/"))
    number = len(answers)
    return "; ".join(f"{name} ({'all' if len(of) == number > 1 else some(of)})" for name, of in data_sets.items())


def _with_sentences(table: TextTable, answers: Sequence[Answer]) -> TextTable:
    """Adds to the notes what was not compared; data sets of which the same is said stand together."""
    data_sets: dict[str, list[str]] = defaultdict(list)
    for answer in answers:
        for sentence in (*uncompared(answer), *left_out_of(answer)):
            data_sets[sentence].append(answer.name.removeprefix("vtab/"))
    table.notes += [f"{some(names)}: {sentence}" for sentence, names in data_sets.items()]
    return table


def _cheapest(answer: Answer, cost: str) -> str:
    if not answer.has_cheapest(cost):
        return "–"
    least = answer.cheapest[cost]
    same = answer.cost_the_same(cost) and not least.uncompared
    who = "all the same" if same else listed(answer.names(least.rows), 2)
    return f"{who}, {IN_WORDS[cost][1](least.value or 0.0)}"
