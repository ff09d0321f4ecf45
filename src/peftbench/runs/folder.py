"""A run's folder: one process has it at a time, and what a forced run replaces is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from filelock import FileLock

from peftbench.common import terminal
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.file_lock import releasing, take
from peftbench.common.leftovers import remove_dead_parts
from peftbench.common.regular_files import text_in
from peftbench.config import Config
from peftbench.runs.plan_file import CONFIG


@contextlib.contextmanager
def owned_folder(folder: Path, process: int, group: str | None) -> Iterator[None]:
    """One process carries out a run at a time; another job of the same sweep waits until it is over.

    Raises:
        UserError: another process is at it, or nothing can be written.
    """
    if process:
        yield
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        locks = folder.parent / ".locks"
        locks.mkdir(exist_ok=True)
        lock, theirs = _taken(locks / folder.name, group)
        if lock is None and group and theirs == group:
            lock = take(locks / folder.name, wait=True)
    except OSError as problem:
        raise _not_writable(folder.parent, problem.strerror) from None
    if lock is None:
        raise UserError(f"{folder}: another process is carrying out this very run; wait for it.")
    remove_dead_parts(folder)
    try:
        yield
    finally:
        lock.release()


def _taken(path: Path, group: str | None) -> tuple[FileLock | None, str]:
    """The lock at `path`, with which its owner's sweep is written beside it; or None, and the sweep of who holds it.

    Who comes in the moment between the two would take the owner for that of before, so that nobody may.

    Raises:
        OSError: as `take`.
        UserError: nothing can be written.
    """
    owner = path.with_name(f"{path.name}.group")
    with releasing(take(path.with_name(f"{path.name}.taking"), wait=True)):
        lock = take(path, wait=False)
        if lock is None:
            return None, text_in(owner) if owner.is_file() else ""
        try:
            with replacing(owner, lambda why: str(_not_writable(path.parent.parent, why))) as part:
                part.write_text(group or "", encoding="utf-8")
        except BaseException:
            lock.release()
            raise
        return lock, group or ""


def _not_writable(output_dir: Path, why: str | None) -> UserError:
    return UserError(f"output_dir={output_dir}: cannot be written ({why}); give another.")


def prepared_folder(folder: Path, config: Config) -> None:
    """The run's folder with the resolved config. What a forced run replaces is kept beside it."""
    if config.force and folder.exists():
        old = set_aside(folder)
        terminal.console().print(
            f"force=true: the run that was there is kept in {old}", highlight=False, soft_wrap=True
        )
    write_config(folder, config)


def write_config(folder: Path, config: Config) -> None:
    """Writes the resolved config into a run's folder, which is made. Raises UserError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be written ({problem.strerror}); give another output_dir.") from None
    with replacing(folder / CONFIG) as part:
        part.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def set_aside(folder: Path, names: Sequence[str] | None = None) -> Path:
    """Moves a run's folder, or files of it, to a folder beside it that was not there before, and returns that.

    Args:
        folder: the run's.
        names: the files to move, of which some may be missing; None moves all of the folder.

    Raises:
        UserError: they cannot be moved.
    """
    old = folder.with_name(f".{folder.name}.previous")
    number = 1
    while old.exists() or old.is_symlink():
        number += 1
        old = folder.with_name(f".{folder.name}.previous-{number}")
    try:
        if names is None:
            folder.rename(old)
        else:
            old.mkdir()
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    (folder / name).rename(old / name)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be moved to {old} ({problem.strerror}); give another output_dir.") from None
    return old
