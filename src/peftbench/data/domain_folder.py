"""Images of several domains, photographs and sketches of the same classes, say: trained on some, tested on all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError, nearest
from peftbench.data.base import DataSet, Split, Splits
from peftbench.data.copies import first_copies, first_within
from peftbench.data.domain_rows import ALL, rows_of_domain, rows_of_lists
from peftbench.data.folder import Folder
from peftbench.data.heif import require_heif
from peftbench.data.label_table import Row
from peftbench.data.leaks import notes_of_copies
from peftbench.data.listing import folders_in
from peftbench.data.splitting import split_images
from peftbench.data.targets import natural

Rows = Mapping[str, Mapping[str, Sequence[Row]]]
"""Domain -> role (`all` where its images have none) -> its images."""


@dataclass(frozen=True)
class DomainFolder(DataSet):
    """Images as `root/<domain>/<class>/<image>`, as DomainNet, PACS and Office-Home have them.

    A run trains on `train_domains`. It is tested on images of the same domains that were held out (`test`), and on
    each other domain (`shifted`), or on those of `test_domains` alone. The classes are those of all these domains.

    What is held out of a training domain are the folders `val` and `test` in it (`<domain>/test/<class>/<image>`), or
    what the lists `<domain>_val.txt` and `<domain>_test.txt` in the folder `lists` name, or else a part that is drawn
    with `split_seed`, of each class and domain the same share. Of another domain the folder or the list of its test
    images is read where it has one, and all images where it has none.
    """

    places: ClassVar[tuple[str, ...]] = ("root", "lists")
    shifts: ClassVar[bool] = True

    root: str
    train_domains: tuple[str, ...]
    test_domains: tuple[str, ...] | None = None
    lists: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0

    def load(self) -> Splits:
        drawn = Folder(self.root, None, self.val_fraction, self.test_fraction, self.split_seed)
        drawn.refuse_fractions()
        root = drawn.folder()
        trained, tested = self._domains(root)
        rows, notes = self._rows(root, trained, tested)
        classes = tuple(sorted({row.label for row in _all(rows)}, key=natural))
        if len(classes) == 1:
            raise UserError(f"data.root={self.root}: all domains hold the one class '{classes[0]}'; expected two.")
        notes += _lacking(rows, classes, trained)
        number = {name: i for i, name in enumerate(classes)}
        splits = self._held_out(root, {domain: rows[domain] for domain in trained}, number, notes)
        shifted = {name: _split(root, list(_all({name: rows[name]})), number) for name in tested}
        require_heif([path for split in shifted.values() for path in split.images if isinstance(path, Path)])
        notes += _seen(splits["train"], shifted)
        made = f"-made-{self.val_fraction:g}-{self.test_fraction:g}-s{self.split_seed}"
        name = f"{root.name}-{'+'.join(trained)}" + (made if any(ALL in rows[domain] for domain in trained) else "")
        return Splits(
            name,
            classes,
            splits["train"],
            splits.get("val"),
            splits.get("test"),
            notes=tuple(notes),
            lacking={} if "test" in splits else {"test": self._no_test(trained)},
            shifted=shifted,
        )

    def _domains(self, root: Path) -> tuple[list[str], list[str]]:
        """(those to train on, the others), each in the order of the key, or of their names.

        Raises:
            UserError: one that is not there, or that is on both sides, or none at all.
        """
        known = [folder.name for folder in folders_in(root)]
        lists = Path(self.lists).expanduser().resolve() if self.lists else None
        known = [name for name in known if (root / name).resolve() != lists]
        for key in ("train_domains", "test_domains"):
            for name in getattr(self, key) or ():
                if name not in known:
                    there = ", ".join(known[:8]) or "none"
                    raise UserError(
                        f"data.{key}: there is no domain '{name}' in data.root={self.root}{nearest(name, known)}; "
                        f"there are {there}."
                    )
        if not self.train_domains:
            raise UserError(f"data.train_domains=[]: expected at least one of {', '.join(known) or 'none'}.")
        trained = list(dict.fromkeys(self.train_domains))
        if self.test_domains is None:
            return trained, [name for name in known if name not in trained]
        if both := [name for name in self.test_domains if name in trained]:
            raise UserError(
                f"data.test_domains: {both[0]} is trained on (data.train_domains); held-out images of it are the test "
                f"set, and the domains to test on are others."
            )
        return trained, list(dict.fromkeys(self.test_domains))

    def _rows(self, root: Path, trained: Sequence[str], tested: Sequence[str]) -> tuple[Rows, list[str]]:
        """The images of each domain, and what the user should know of how they were read."""
        if self.lists is not None:
            return rows_of_lists(root, self.lists, trained, tested)
        rows, notes = {}, []
        for domain in (*trained, *tested):
            of_roles, told = rows_of_domain(root, domain, f"data.root={self.root}")
            if domain in tested:
                every = [row for of_role in of_roles.values() for row in of_role]
                of_roles = {"test": of_roles.get("test", every)}
            elif "train" not in of_roles and ALL not in of_roles:
                raise UserError(f"{root / domain}: holds {', '.join(of_roles)} and no images to train on.")
            rows[domain] = of_roles
            notes += [f"{domain}: {note}" for note in told]
        return rows, notes

    def _held_out(self, root: Path, rows: Rows, number: Mapping[str, int], notes: list[str]) -> dict[str, Split]:
        """The training domains by role, with what no folder or list gives drawn; copies of an image are on one side."""
        every = [(domain, role, row) for domain, of in rows.items() for role, rs in of.items() for row in rs]
        given = np.array([role for _, role, _ in every], dtype=object)
        domains = {domain: i for i, domain in enumerate(rows)}
        strata = np.array([domains[domain] * len(number) + number[row.label] for domain, _, row in every])
        require_heif([root / row.path for _, _, row in every])
        first = first_copies([root / row.path for _, _, row in every])
        notes += notes_of_copies([row for _, _, row in every], given.tolist(), first, Folder.kind.name)
        roles = given.copy()
        whole = np.flatnonzero(given == ALL)
        without_val = {domain for domain, of in rows.items() if "train" in of and "val" not in of}
        alone = np.array([i for i, (d, role, _) in enumerate(every) if role == "train" and d in without_val], dtype=int)
        for members, shares in ((whole, {"val": self.val_fraction, "test": self.test_fraction}),
                                (alone, {"val": self.val_fraction})):  # fmt: skip
            if len(members):
                copies = first_within(first, members)
                parts = split_images(strata[members], copies, [*shares.values()], self.split_seed)
                roles[members] = ""  # a further copy of what is held out
                for role, part in zip(("train", *shares), parts, strict=True):
                    roles[members[part]] = role
        by_role = {role: [row for (_, _, row), r in zip(every, roles, strict=True) if r == role] for role in _ROLES}
        return {role: _split(root, of_role, number) for role, of_role in by_role.items() if of_role}

    def _no_test(self, trained: Sequence[str]) -> str:
        """Why no images of the training domains are there to test."""
        return (
            f"data.root={self.root}: {', '.join(trained)} {agreeing(len(trained), 'has', 'have')} no images to test "
            f"beside those to train on; give data.test_fraction above 0, or <domain>/test/<class>/<image>."
        )


_ROLES = ("train", "val", "test")


def _all(rows: Rows) -> Iterator[Row]:
    return (row for of_roles in rows.values() for of_role in of_roles.values() for row in of_role)


def _split(root: Path, rows: Sequence[Row], number: Mapping[str, int]) -> Split:
    return Folder(str(root)).split(root, rows, np.array([number[row.label] for row in rows], dtype=np.int64))


def _lacking(rows: Rows, classes: Sequence[str], trained: Sequence[str]) -> list[str]:
    """A sentence for each domain that lacks classes, and for classes of which there is nothing to train on."""
    notes = []
    of_domain = {domain: {row.label for row in _all({domain: of})} for domain, of in rows.items()}
    for domain, there in of_domain.items():
        if none := [name for name in classes if name not in there]:
            notes.append(f"{domain} has no image of {_some(none)}, of {len(classes)}")
    learned = {name for domain in trained for name in of_domain[domain]}
    if none := [name for name in classes if name not in learned]:
        notes.append(f"no training domain has {_some(none)}: images of other domains of it cannot be told right")
    return notes


def _some(names: Sequence[str]) -> str:
    return f"{plural(len(names), 'class')} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _seen(train: Split, shifted: Mapping[str, Split]) -> list[str]:
    """A sentence for each other domain that holds training images."""
    trained = [path for path in train.images if isinstance(path, Path)]
    notes = []
    for domain, split in shifted.items():
        copies = first_copies([*trained, *split.images])[len(trained) :]
        if seen := [name for name, copy in zip(split.names, copies.tolist(), strict=True) if copy < len(trained)]:
            too = agreeing(len(seen), "is a training image", "are training images")
            notes.append(f"{domain}: {len(seen):,} of its images {too} too, such as {seen[0]}")
    return notes
