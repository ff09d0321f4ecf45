"""`peftbench taps list|clear`: what the tap cache holds."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.common.amounts import size
from peftbench.common.errors import UserError, nearest
from peftbench.taps.entries import Entry, ago, entries, leftover_sizes, remove_entry, remove_leftovers, taps_folder

USAGE = "peftbench taps list, or peftbench taps clear [key …]; taps.dir=<folder> for another cache"


def run(arguments: Sequence[str]) -> int:
    """Lists the entries, or removes all of them or those whose keys begin as given. Raises UserError."""
    words = [a for a in arguments if not a.startswith("taps.dir=")][1:]
    given = next((a.partition("=")[2] for a in arguments if a.startswith("taps.dir=")), None)
    verb, keys = (words[0], words[1:]) if words else ("list", [])
    if verb not in ("list", "clear") or (verb == "list" and keys):
        raise UserError(f"taps {' '.join(words)}: there is no such command{nearest(verb, ['list', 'clear'])}; {USAGE}.")
    root = taps_folder(given)
    there = entries(root)
    if verb == "list":
        _show(there)
        print(f"{root}: {len(there)} entries, {size(sum(e.bytes for e in there))}")
        if left := leftover_sizes(root):
            print(f"{len(left)} half-written by killed runs, {size(sum(left))}; peftbench taps clear removes them")
        return 0
    for key in keys:
        if not any(e.key.startswith(key) for e in there):
            raise UserError(f"taps clear {key}: no entry of {root} begins so; see peftbench taps list.")
    chosen = [e for e in there if not keys or any(e.key.startswith(k) for k in keys)]
    gone = [e for e in chosen if remove_entry(e)]
    freed = sum(e.bytes for e in gone) + (remove_leftovers(root) if not keys else 0)
    print(f"{root}: removed {len(gone)} entries, {size(freed)}")
    for entry in chosen:
        if entry not in gone:
            print(f"{entry.key} is being read by a run, and is kept")
    return 0


def _show(found: Sequence[Entry]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False)
    for name in ("key", "backbone", "data", "rows", "taps", "pixels", "precision", "size", "last used"):
        table.add_column(name, no_wrap=True)
    for entry in found:
        table.add_row(entry.key, *_told(entry), size(entry.bytes), ago(entry.used))
    if found:
        Console(width=None if Console().is_terminal else 200).print(table)


def _told(entry: Entry) -> list[str]:
    if not entry.about:
        return ["damaged", *["–"] * 5]
    about = {"taps": (), "pixels": ("–",), **entry.about["about"]}
    told = [about.get("backbone", "–"), about.get("data", "–"), entry.about["rows"], len(about["taps"])]
    return [str(v) for v in (*told, about["pixels"][0], about.get("precision", "–"))]
