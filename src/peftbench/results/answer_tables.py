"""The answers as what stands first in a report: sentences for a few data sets, a row for each of many."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.results.answer_text import IN_WORDS, TIME_IN_WORDS, rank, reached, sentences, title_of
from peftbench.results.answers import Answer
from peftbench.results.cheapest import COSTS, TIME
from peftbench.results.text_table import Heading, TextTable, listed

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
    columns = [("data set", False), ("images", True), ("highest", False), ("%", True), ("inside its noise", True)]
    costs = [cost for cost in COSTS if any(answer.has_cheapest(cost) for answer in answers)]
    columns += [(f"cheapest by {IN_WORDS[cost][0]}", False) for cost in costs]
    table = TextTable(f"{TITLE} By data set", columns)
    for answer in answers:
        highest = f"{answer.highest.name}{' (best)' if rank(answer) == 'Best' else ''}"
        images = "–" if answer.images is None else f"{answer.images:,}"
        others = len(answer.contenders) - 1
        level = f"{len(answer.level)} of {others}" if others else "–"
        figure = reached(answer.highest).partition(" %")[0]
        row = [answer.name.removeprefix("vtab/"), images, highest, figure, level]
        table.rows.append([*row, *(_cheapest(answer, cost) for cost in costs)])
    table.notes.append(
        "Inside its noise are so many of the others; the cheapest is among the highest and these. (best) is higher "
        "than each of the others by more than the noise, also after correction for so many comparisons (Holm)."
    )
    return table


def _cheapest(answer: Answer, cost: str) -> str:
    if not answer.has_cheapest(cost):
        return "–"
    least = answer.cheapest[cost]
    same = answer.cost_the_same(cost) and not least.uncompared
    who = "all the same" if same else listed(answer.names(least.rows), 2)
    return f"{who}, {IN_WORDS[cost][1](least.value or 0.0)}"
