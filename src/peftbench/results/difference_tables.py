"""What a report says of the differences between the rows of a board, as plain tables."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.common.amounts import plural
from peftbench.results.board import Board, Row
from peftbench.results.chosen import ON_TEST
from peftbench.results.groups import Group
from peftbench.results.per_image import FILE
from peftbench.results.same_images import SameImages, compared_by_image
from peftbench.results.stats import LEAST_PAIRS, ONLY_ALONE, Difference
from peftbench.results.task_results import images_of, less_is_better, short
from peftbench.results.text_table import TextTable, some


def difference_tables(group: Group) -> list[TextTable]:
    """Differences of methods, then of single runs that were compared image by image, where there are any."""
    tables = [pairs_table(group)]
    compared = [compared_by_image(board, board.pairs()) for board in group.boards]
    tests = [test for of_board, _ in compared for test in of_board]
    unread = [run for _, of_board in compared for run in of_board]
    if tests:
        tables.append(same_images_table(tests))
    if unread:
        runs, ids = plural(len(unread), "run"), some([run.id for run in unread])
        tables[-1].notes.append(f"{FILE} is missing, or is not that of the record, for {runs} ({ids}).")
    return tables


def pairs_table(group: Group) -> TextTable:
    """Paired differences, those of `board.pairs()`, and in words whether they are more than noise."""
    metric = short(group.first.metric)
    columns = [("data set", False)] if group.several else []
    columns += [("first", False), ("second", False)]
    named = len(columns)
    columns += [("difference", True), ("paired over", False)]
    columns += [("p (t, Holm)", True), ("p (Wilcoxon)", True), ("so", False)]
    title = f"Differences between methods, points of {metric}"
    table = TextTable(title, columns, label="differences", repeated=named)
    for board in group.boards:
        where = [board.tasks[0]] if group.several else []
        for first, second, difference, over in board.pairs():
            figures = [_points(difference), over, _p(difference.holm), _p(difference.wilcoxon)]
            table.rows.append([*where, first.label, second.label, *figures, _verdict(first, second, difference)])
    if any(not board.compares_all for board in group.boards):
        table.notes.append("The report compares each of this many methods with the first, where they share tasks.")
    table.notes.append(
        f"{_pair_in_words(group.first)}; p-values are corrected for their number"
        f"{' on a data set' if group.several else ''} (Holm). There is no verdict below {LEAST_PAIRS} pairs."
    )
    counted = any(run.counts(board.metric) for board in group.boards for run in board.all_runs())
    answered = not less_is_better(group.first.metric)  # of a loss there is no answer
    verdicts = {difference.verdict for board in group.boards for _, _, difference, _ in board.pairs()}
    if ONLY_ALONE in verdicts:
        table.notes.append(
            "Two that are not told apart after correction differ by more than noise where they are compared alone"
            f"{', as the answer compares them' if answered else ''}."
        )
    few = any(difference.few for board in group.boards for _, _, difference, _ in board.pairs())
    if few and counted and answered:
        table.notes.append(
            f"Of fewer than {LEAST_PAIRS} pairs the answer judges by the {images_of(group.first.metric)}s alone, which "
            "say nothing of other seeds."
        )
    table.notes.append(
        "A pair varies at least as much as drawing so many images does, however alike the seeds are."
        if counted
        else f"How much {metric} depends on which images are tested is not known: p is of the seeds alone."
    )
    return table


def _pair_in_words(board: Board) -> str:
    if not board.has_means:
        return "A pair is a seed"
    if board.vtab:
        return (
            "A pair is a task with its seeds averaged where two methods share three tasks, else a seed, and the "
            "differences are averaged within each task first"
        )
    return "A pair is a seed; differences are averaged within each task, then over the tasks that both have"


def same_images_table(tests: Sequence[SameImages]) -> TextTable:
    """Of two runs the images that one of them alone has right, and whether that is more than chance."""
    columns = [("first", False), ("second", False), ("task", False), ("seed", True), ("images", True)]
    columns += [("only first right", True), ("only second right", True), ("p (McNemar, Holm)", True), ("so", False)]
    title = "These weights, not the method: the same test images, one by one"
    table = TextTable(title, columns, label="same-images", repeated=4)
    for test in tests:
        counts = [str(n) for n in (test.seed, test.images, test.only_first, test.only_second)]
        words = {
            "better": f"these weights of {test.first.label} are better{_if_on_test(test.first, ', but {}')}",
            "worse": f"these weights of {test.first.label} are worse{_if_on_test(test.second, ' than those {}')}",
        }
        so = words.get(test.verdict, test.verdict)
        task = test.task.removeprefix("vtab/")
        table.rows.append([test.first.label, test.second.label, task, *counts, _p(test.holm), so])
    table.notes.append(
        "McNemar's exact test asks of two trained models whether one has more of these images right. It says nothing "
        f"of other seeds: a verdict on the methods needs {LEAST_PAIRS} or more."
    )
    return table


def _points(difference: Difference) -> str:
    """`+1.2 ± 0.4` points."""
    half = "" if difference.half is None else f" ± {100 * difference.half:.1f}"
    return f"{100 * difference.mean:+.1f}{half}"


def _verdict(first: Row, second: Row, difference: Difference) -> str:
    words = {
        "better": f"{first.label} is better{_if_on_test(first, ', but {}')}",
        "worse": f"{first.label} is worse{_if_on_test(second, ' than one {}')}",
        "no telling": difference.untold,
        "equal": "the same in every pair",
    }
    return words.get(difference.verdict, difference.verdict)


def _if_on_test(row: Row, words: str) -> str:
    """The words, with how it was chosen, where test images chose the setting of the better one."""
    return words.format(ON_TEST) if row.choice.by == ON_TEST else ""


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
