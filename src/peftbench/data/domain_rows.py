"""Which images a domain has, by its folder or by lists as DomainNet gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.text_files import text_of
from peftbench.data.class_folders import read_class_folders
from peftbench.data.folder import Folder
from peftbench.data.label_table import Row
from peftbench.data.layout import ALL, find_layout
from peftbench.data.vtab.list_files import parse_list

__all__ = ["ALL", "rows_of_domain", "rows_of_lists"]


def rows_of_domain(root: Path, domain: str, word: str) -> tuple[dict[str, list[Row]], list[str]]:
    """The images of `root/<domain>` by role, their paths relative to the root, and notes; class folders say the class.

    Args:
        word: what names the root, for messages.

    Raises:
        UserError: the domain holds no images in class folders.
    """
    place = root / domain
    if not Folder.kind.is_class(place):
        raise UserError(
            f"{word}: the domain {domain} holds no images ({Folder.kind.forms}); expected {domain}/<class>/<image>, or "
            f"name the domains that are meant (data.test_domains=[…])."
        )
    rows_of, notes = read_class_folders(place, find_layout(place, Folder.kind), Folder.kind)
    moved = {role: [row._replace(path=f"{domain}/{row.path}") for row in rows] for role, rows in rows_of.items()}
    return moved, notes


def rows_of_lists(
    root: Path, lists: str, trained: Sequence[str], tested: Sequence[str]
) -> tuple[dict[str, dict[str, list[Row]]], list[str]]:
    """The images of each domain by role, as `<domain>_train.txt` and the like name them, a line `<path> <number>` each.

    A path is relative to the root, `<domain>/<class>/<image>`: its folder says what the class is called. Of the domains
    that are tested alone, `<domain>_test.txt` is read.

    Raises:
        UserError: a list that lacks or names what is not there, or one number for two classes.
    """
    folder = Path(lists).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.lists={lists}: there is no such folder; give that of <domain>_train.txt and the like.")
    known: dict[int, tuple[str, str]] = {}  # number -> its class, and where that was said
    rows: dict[str, dict[str, list[Row]]] = {}
    for domain in (*trained, *tested):
        rows[domain] = {}
        for role in ("train", "val", "test") if domain in trained else ("test",):
            file = folder / f"{domain}_{role}.txt"
            if not file.is_file() and role == "val":
                continue
            rows[domain][role] = _rows(file, root, known)
    return rows, []


def _rows(file: Path, root: Path, known: dict[int, tuple[str, str]]) -> list[Row]:
    if not file.is_file():
        raise UserError(f"{file}: is missing; expected lines of '<domain>/<class>/<image> <number>'.")
    listed = parse_list(file, text_of(file), None)
    if listed.problems:
        raise UserError(listed.problems[0])
    rows = []
    for line, (path, label) in enumerate(zip(listed.names, listed.labels, strict=True), start=1):
        name = Path(path).parent.name
        if not (root / path).is_file():
            raise UserError(f"{file}: names {path}, which is not in {root}.")
        before, where = known.setdefault(label, (name, str(file)))
        if before != name:
            raise UserError(
                f"{file}: {path} has the number {label}, which is the class '{before}' in {where}; expected one number "
                f"for one class."
            )
        rows.append(Row(path, name, line))
    if not rows:
        raise UserError(f"{file}: names no image; expected lines of '<domain>/<class>/<image> <number>'.")
    return rows
