"""What stands below a group's first table: how its figures were made, and what they are worth."""

from __future__ import annotations

from peftbench.common.amounts import plural
from peftbench.results.advice import below_probe_on, overfitted_on
from peftbench.results.board import FLAT, Board
from peftbench.results.cells import BOLD_NOTE, best_note
from peftbench.results.chosen import settings_by_arm
from peftbench.results.groups import Group, differing_settings
from peftbench.results.settings import OWN
from peftbench.results.spending import spent_notes
from peftbench.results.text_table import NAMED, TextTable, some
from peftbench.results.validation import is_of_test_images


def group_notes(group: Group, incomplete: bool, shows_tasks: bool) -> list[str]:
    """The notes, that of what stands apart first.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
        shows_tasks: whether tasks stand in the place of VTAB's means.
    """
    board = group.first
    notes = [f"This board stands apart from the boards before: {board.apart}."] if board.apart else []
    notes.append(_basis(board))
    notes.append("± is half of the 95 % interval over seeds (t); a figure without it has one seed, or a task with one.")
    if any(_seeds_agree(board) for board in group.boards):
        notes.append(
            "± 0.0 is of seeds that agree, as few may by chance; it says nothing of the number of test images."
        )
    if any(len(board.rows) > 1 for board in group.boards):
        notes.append(f"{BOLD_NOTE}." if shows_tasks else best_note(board))
    notes += [_NO_GROUP] if shows_tasks else _missing_tasks(board, incomplete) if board.has_means else []
    notes += _on_settings(group)
    notes += _on_runs(group)
    notes += _on_protocols(group)
    notes += [note for board in group.boards for note in below_probe_on(board)][:NAMED]
    notes += [note for board in group.boards for note in overfitted_on(board)][:NAMED]
    twice = [run for board in group.boards for run in board.twice]
    if twice:
        runs, ids = plural(len(twice), "further run"), some([run.id for run in twice])
        notes.append(f"The means count a setting and seed once, and leave out {runs} ({ids}).")
    return notes


def _seeds_agree(board: Board) -> bool:
    """Whether an interval over seeds is shown as nothing."""
    halves = (board.cell(row, task).half for row in board.rows for task in board.tasks)
    return any(half is not None and f"{100 * half:.1f}" == "0.0" for half in halves)


_NO_GROUP = (
    "No row has all tasks of one of VTAB-1k's groups, so there is no mean; incomplete=true gives the mean of the tasks "
    "that are there."
)


def _basis(board: Board) -> str:
    """What all runs share."""
    basis = dict(board.basis)
    weights = f", weights {basis['weights']}" if basis["weights"] != "hub" else ""
    split = "" if basis["split"] == OWN else f", split {basis['split']}"
    return f"All runs: {basis['backbone']}{weights}, {basis['input']}, trained on {basis['trained on']}{split}."


def _on_runs(group: Group) -> list[str]:
    """What failed, where the runs took place, and what their times and memory hold."""
    notes = []
    failed = sum(sum(row.failed.values()) for _, row in group.all_rows())
    failed += sum(len(board.failed) for board in group.boards if group.several)
    if failed:
        runs = plural(failed, "run")
        notes.append(f"† marks cells in which runs of these settings failed, {runs} in all; the means leave them out.")
    machines = sorted({machine for _, row in group.all_rows() for machine in row.machines})
    if len(machines) > 1:
        named = some(machines, between="; ")  # a name has commas
        notes.append(f"Times and memory are of {len(machines)} machines, and can be compared within one: {named}.")
    measures = sorted({run.costs.measure for board in group.boards for run in board.all_runs()} - {""})
    if len(measures) > 1:
        notes.append(f"The runs measure memory in {len(measures)} ways: {some(measures)}.")
    if any(row.times for _, row in group.all_rows()):
        notes.append("Times from kept taps leave out what filling them took; runs trained together share their times.")
    notes += spent_notes([row for _, row in group.all_rows()])
    return notes


def _on_protocols(group: Group) -> list[str]:
    protocols = sorted({row.tuned for _, row in group.all_rows()} - {""})
    notes = [f"A protocol chose settings on validation images, namely {protocol}." for protocol in protocols[:NAMED]]
    if protocols and any(not row.tuned for _, row in group.all_rows()):
        notes.append("Rows without a protocol have one setting for all tasks; the records do not say how it was found.")
    return notes


def _missing_tasks(board: Board, incomplete: bool) -> list[str]:
    notes = []
    remedy = "" if incomplete else "; incomplete=true gives the mean of the others"
    for row in board.rows:
        missing = board.means(row, incomplete)[FLAT].missing
        if missing:
            notes.append(f"* {row.label} lacks {plural(len(missing), 'task')} ({some(missing)}){remedy}.")
    return notes[:NAMED]


def _on_settings(group: Group) -> list[str]:
    """What the figures are worth where a method has several settings, and where data sets differ in them."""
    notes = [f"Settings differ by data set: {words}." for words in differing_settings(group)[:NAMED]]
    if any(board.tried for board in group.boards):
        notes.append(
            "Of a method with several settings the board shows the one that is best on validation images. Where there "
            "are none, it is the best on test images, and its figures are too high. settings=all shows every setting."
        )
    elif is_of_test_images(group.first.metric) and any(
        len(settings) > 1 for board in group.boards for settings in settings_by_arm(board.rows).values()
    ):
        notes.append(
            "To take the best of a method's settings by these figures is to choose on test images: optimistic."
        )
    return notes


def full_names(group: Group) -> TextTable:
    """The names that tables shorten, in full."""
    rows = [row for _, row in group.all_rows()]
    rows += [tried.row for board in group.boards for tried in board.tried]
    names = {row.label: row.full_label for row in rows}
    names |= {line.name.short: line.name.full for line in group.lines}
    short = [[name, full] for name, full in sorted(names.items()) if name != full]
    return TextTable("Names in full", [("name", False), ("in full", False)], short, label="names")
