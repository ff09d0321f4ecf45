"""`peftbench taps list|clear`: what the tap cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.cli.arguments import Argument, Command, CommandGroup, Words
from peftbench.common import terminal
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing

if TYPE_CHECKING:
    from peftbench.taps.entries import Entry


def list_taps(words: Words) -> int:
    """Prints the entries and what killed runs left."""
    doing("looking at the entries")
    from peftbench.common.amounts import plural, size
    from peftbench.taps.entries import entries, leftover_sizes, taps_folder

    root = taps_folder(words["taps.dir"])
    there = entries(root)
    _print_table(there)
    print(f"{root}: {plural(len(there), 'entry')}, {size(sum(e.bytes for e in there))}")
    if left := leftover_sizes(root):
        print(f"{len(left)} half-written by killed runs, {size(sum(left))}; peftbench taps clear removes them")
    return 0


def clear_taps(words: Words) -> int:
    """Removes all entries, or those whose keys begin as given. Raises UserError where none does."""
    doing("looking at the entries")
    from peftbench.common.amounts import plural, size
    from peftbench.taps.entries import entries, remove_entry, remove_leftovers, taps_folder

    root, keys = taps_folder(words["taps.dir"]), words["keys"]
    there = entries(root)
    for key in keys:
        if not any(e.key.startswith(key) for e in there):
            raise UserError(f"taps clear {key}: no entry of {root} begins so; see peftbench taps list.")
    chosen = [e for e in there if not keys or any(e.key.startswith(k) for k in keys)]
    removed = [e for e in chosen if remove_entry(e)]
    freed = sum(e.bytes for e in removed)
    if not keys:
        freed += remove_leftovers(root)
    print(f"{root}: removed {plural(len(removed), 'entry')}, {size(freed)}")
    for entry in chosen:
        if entry not in removed:
            print(f"{entry.key} is being read by a run, or is a link or holds other files, and is kept")
    return 0


def _print_table(there: Sequence[Entry]) -> None:

    from peftbench.common.amounts import size
    from peftbench.common.fitted_table import PIPED, Cell, Column, fitted, left_out_in_words
    from peftbench.taps.entries import ABOUT, ago

    if not there:
        return
    columns = [Column("key", True), Column("backbone"), Column("data"), Column("rows", True, rank=2)]
    columns += [Column("taps", True, rank=3), Column("pixels", True, rank=4), Column("precision", rank=5)]
    columns += [Column("size", True), Column("last used", rank=1)]
    rows = [[Cell(text) for text in (e.key, *_described(e), size(e.bytes), ago(e.used))] for e in there]
    console = terminal.console()
    if not console.is_terminal:
        console = terminal.console(width=PIPED)
    table, left_out = fitted(columns, rows, console.width)
    console.print(table)
    if left_out:
        words = left_out_in_words(left_out, console.width, f"an entry's {ABOUT}")
        console.print(words, style="dim", highlight=False)


def _described(entry: Entry) -> list[str]:
    if not entry.about:
        return ["damaged", *["–"] * 5]
    about = {"taps": (), "pixels": ("–",), **entry.about["about"]}
    names = [about.get("backbone", "–"), about.get("data", "–")]
    sizes = [entry.about["rows"], len(about["taps"]), about["pixels"][0]]
    return [str(value) for value in (*names, *sizes, about.get("dtype") or about.get("precision", "–"))]


_DIR = Argument("taps.dir", "another cache", kind="folder")
COMMAND = CommandGroup(
    "taps",
    "kept taps of frozen backbones (taps=auto|disk|memory|off)",
    (
        Command("taps list", "the entries of the cache, and what killed runs left", list_taps, (_DIR,)),
        Command(
            "taps clear",
            "removes them, or those whose keys begin so",
            clear_taps,
            (
                Argument(
                    "keys", "how their keys begin; all if none is given", placeholder="KEY", place=True, several=True
                ),
                _DIR,
            ),
            examples=("peftbench taps clear", "peftbench taps clear 3f9a"),
        ),
    ),
    default="list",
)
