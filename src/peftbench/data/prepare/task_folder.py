"""A task's folder, written beside its place and put there when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.file_lock import releasing, take
from peftbench.common.progress import Stages, unwatched
from peftbench.common.regular_files import content_of, text_in
from peftbench.data.base import stamp_of_bytes
from peftbench.data.prepare.drawing import ROLES, Entry
from peftbench.data.vtab import list_files, provenance
from peftbench.data.vtab.verify import hash_of_rows, stage_hash

# Gives (index, the bytes of an image file) for each of the entries it is asked for, in any order.
Pictures = Callable[[Sequence[Entry]], Iterator[tuple[int, bytes]]]
_FOLDERS = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
_KINDS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"RIFF": ".webp",
    b"II*\x00": ".tif",
    b"MM\x00*": ".tif",
}


def write_task_folder(
    target: Path,
    drawn: Mapping[str, Sequence[Entry]],
    pictures: Pictures,
    *,
    split: str,
    source: str,
    reduced: bool,
    classes: Sequence[str] = (),
    watch: Stages = unwatched,
) -> provenance.Provenance:
    """Writes the folder of a task: `images/<split>/<index>.<kind>`, the four lists, classes.txt and split.json.

    Images go to a hidden folder beside `target` first. What an earlier call wrote there for the same images is not
    written again. The 1000 images of train and val together are a second copy, as in the copies that are shared.

    Raises:
        UserError: nothing can be written, another process is at it, or a picture is of no kind that is known.
    """
    task = target.name
    with building_folder(target, _plan(split, drawn)) as begun:
        stamps: dict[str, str] = {}
        there = {role: _there(begun, role, stamps) for role in ROLES}
        missing = [(role, i) for role in ROLES for i in range(len(drawn[role])) if i not in there[role]]
        total = sum(len(drawn[role]) for role in ROLES)
        # All are asked for at once: an archive of tens of gigabytes may have to be read from its beginning each time.
        images = pictures([drawn[role][i] for role, i in missing])
        for done, (at, content) in enumerate(images, start=total - len(missing) + 1):
            role, i = missing[at]
            path = begun / "images" / _FOLDERS[role] / f"{i:06d}{_kind(content, drawn[role][i])}"
            part = path.with_suffix(".part")
            part.write_bytes(content)
            part.replace(path)
            there[role][i] = path
            stamps[_name(path, begun)] = stamp_of_bytes(content)
            watch(f"writing {task}", done, total)
        for role in ROLES:
            if len(there[role]) != len(drawn[role]):
                raise UserError(
                    f"{task}: the source gave {len(there[role]):,} of {len(drawn[role]):,} images of {role}."
                )
        rows = {
            role: [(_name(there[role][i], begun), entry.label) for i, entry in enumerate(drawn[role])] for role in ROLES
        }
        rows["trainval"] = _copied(begun, rows["train"] + rows["val"], stamps)
        made = _described(begun, task, rows, stamps, split=split, source=source, reduced=reduced)
        if classes:
            (begun / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return made


@contextlib.contextmanager
def building_folder(target: Path, plan: str) -> Iterator[Path]:
    """The hidden folder in which `target` is made; it takes its place when the block ends well, else it is kept.

    What was begun under another plan, which a note in it says, is removed.

    Raises:
        UserError: `target` is there already, nothing can be written, or another process is at it.
    """
    begun = target.with_name(f".{target.name}.preparing")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: is there, and is no task's folder; move it away, or give another dir=.")
    try:
        begun.parent.mkdir(parents=True, exist_ok=True)
        with _alone(begun.with_name(begun.name + ".lock"), target):
            note = begun / ".plan"
            if not _ours(begun, note):
                raise UserError(f"{begun}: is there, and was not begun by peftbench; move it away.")
            if note.is_file() and text_in(note) != plan:
                shutil.rmtree(begun)
            begun.mkdir(exist_ok=True)
            note.write_text(plan, encoding="utf-8")
            yield begun
            begun.rename(target)
            (target / note.name).unlink()  # until here it marks the folder as ours
    except OSError as problem:
        raise UserError(
            f"{target}: could not be written ({problem.strerror or problem}); what is done is kept in {begun}, and the "
            f"same command goes on from there."
        ) from None


def _ours(begun: Path, note: Path) -> bool:
    """Whether the folder is not there yet, or is one that we began, and no link to another."""
    if begun.is_symlink() or (begun.exists() and not begun.is_dir()):
        return False
    return not begun.exists() or note.is_file() or not any(begun.iterdir())


@contextlib.contextmanager
def _alone(lock: Path, target: Path) -> Iterator[None]:
    with releasing(take(lock, wait=False)) as alone:
        if not alone:
            raise UserError(f"{target}: is being prepared by another process.")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                lock.unlink(missing_ok=True)


def _there(begun: Path, role: str, stamps: dict[str, str]) -> dict[int, Path]:
    """The images of a role that are written already, by index."""
    folder = begun / "images" / _FOLDERS[role]
    folder.mkdir(parents=True, exist_ok=True)
    images = (p for p in folder.iterdir() if p.stem.isdecimal() and p.suffix in _KINDS.values())
    written = {int(p.stem): p for p in images if p.stat().st_size}  # a crash of the machine may leave empty ones
    stamps |= {_name(path, begun): stamp_of_bytes(content_of(path)) for path in written.values()}
    return written


def _plan(split: str, drawn: Mapping[str, Sequence[Entry]]) -> str:
    rows = [[role, entry.key, entry.label] for role in ROLES for entry in drawn[role]]
    return hashlib.sha256(json.dumps([split, rows]).encode()).hexdigest()


def _name(path: Path, begun: Path) -> str:
    return path.relative_to(begun).as_posix()


def _kind(content: bytes, entry: Entry) -> str:
    for head, suffix in _KINDS.items():
        if content.startswith(head):
            return suffix
    raise UserError(f"{entry.key}: is empty or no image that is known ({', '.join(dict.fromkeys(_KINDS.values()))}).")


def _copied(begun: Path, rows: Sequence[tuple[str, int]], stamps: dict[str, str]) -> list[tuple[str, int]]:
    folder = begun / "images" / _FOLDERS["trainval"]
    folder.mkdir(exist_ok=True)
    copies = []
    for i, (name, label) in enumerate(rows):
        copy = folder / f"{i:06d}{Path(name).suffix}"
        shutil.copyfile(begun / name, copy)
        stamps[_name(copy, begun)] = stamps[name]
        copies.append((_name(copy, begun), label))
    return copies


def _described(
    begun: Path,
    task: str,
    rows: Mapping[str, Sequence[tuple[str, int]]],
    stamps: dict[str, str],
    *,
    split: str,
    source: str,
    reduced: bool,
) -> provenance.Provenance:
    """The four lists and split.json."""
    contents = {}
    for role, file in list_files.FILES.items():
        (begun / file).write_text("".join(f"{name} {label}\n" for name, label in rows[role]), encoding="utf-8")
        contents[role] = hash_of_rows([n for n, _ in rows[role]], [y for _, y in rows[role]], stamps)
    train, val, test = (len(rows[role]) for role in ROLES)
    made = provenance.Provenance(task, split, source, (train, val, test), reduced, stage_hash(contents, "final"))
    (begun / provenance.FILE).write_text(made.text(), encoding="utf-8")
    return made
