"""What lies in class folders, and what lies beside it and is not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.common.readable_names import composed, readable
from peftbench.data.label_table import Row
from peftbench.data.layout import Kind, Layout
from peftbench.data.listing import Tree, files_in, folders_in, read_tree


def read_class_folders(root: Path, layout: Layout, kind: Kind) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each role, with paths relative to `root`, and a note for each sort of file that is not read.

    Raises:
        UserError: a place without class folders, or a folder that cannot be read.
    """
    labels = {role: folders_in(place) for role, place in layout.places.items()}
    tree = read_tree(label for folders in labels.values() for label in folders)
    rows_of: dict[str, list[Row]] = {}
    for role, folders in labels.items():
        items = ((item, label) for label in folders for item in kind.items(tree, label))
        rows_of[role] = [
            Row(item.relative_to(root).as_posix(), composed(readable(label.name))) for item, label in items
        ]
        if not rows_of[role]:
            raise UserError(_no_classes(layout.places[role], kind))
    return rows_of, [*layout.notes, *_left_out(layout, tree, kind)]


def _left_out(layout: Layout, tree: Tree, kind: Kind) -> Iterator[str]:
    places = layout.places.values()
    others = [file for files in tree.files.values() for file in files if not kind.fits(file)]
    suffixes = Counter(file.suffix.lower() or "without a suffix" for file in others)
    kinds = sorted(suffixes.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = ", ".join(f"{count:,} {suffix}" for suffix, count in kinds[:6]) + (", …" if len(kinds) > 6 else "")
    loose = [file for place in places for file in files_in(place) if kind.fits(file)]
    for paths, noun, which in (
        (others, "file", f" with names of no {kind.name} ({shown})"),
        (loose, kind.name, " in no class folder"),
        ([path for path in tree.neither if path.is_symlink()], "link", " to nothing"),
        ([path for path in tree.neither if not path.is_symlink()], "special file", " (a pipe, say)"),
        (tree.circular, "link", " to what is read already"),
    ):
        if paths:
            yield f"left out, {plural(len(paths), noun)}{which}, such as {min(paths)}"


def _no_classes(place: Path, kind: Kind) -> str:
    sentence = f"{place}: holds no class folders with {kind.name}s ({kind.forms}); expected <class>/<{kind.name}>"
    if loose := sum(map(kind.fits, files_in(place))):
        return (
            f"{sentence}, and found {plural(loose, 'file')} in none; put them into folders of their classes, or "
            f"give a CSV of path and label (data.labels=FILE)."
        )
    return f"{sentence}."
