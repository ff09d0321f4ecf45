"""A run's folder: one process has it at a time, and what a forced run replaces is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.console import Console

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.file_lock import take
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
        lock = take(locks / folder.name, wait=False)
        owner = locks / f"{folder.name}.group"  # the sweep of whoever holds the lock
        if lock is None and group and owner.is_file() and owner.read_text(encoding="utf-8") == group:
            lock = take(locks / folder.name, wait=True)
    except OSError as problem:
        raise _not_writable(folder.parent, problem.strerror) from None
    if lock is None:
        raise UserError(f"{folder}: another process is carrying out this very run; wait for it.")
    try:
        with replacing(owner, lambda why: str(_not_writable(folder.parent, why))) as part:
            part.write_text(group or "", encoding="utf-8")
        yield
    finally:
        lock.release()


def _not_writable(output_dir: Path, why: str | None) -> UserError:
    return UserError(f"output_dir={output_dir}: cannot be written ({why}); give another.")


def set_aside(folder: Path) -> Path:
    """Moves a folder out of the way, to a hidden name beside it, which it returns; nothing is replaced."""
    old = folder.with_name(f".{folder.name}.previous")
    number = 1
    while old.exists() or old.is_symlink():
        number += 1
        old = folder.with_name(f".{folder.name}.previous-{number}")
    return folder.rename(old)


def prepared_folder(folder: Path, config: Config) -> None:
    """The run's folder with the resolved config. What a forced run replaces is kept beside it."""
    if config.force and folder.exists():
        old = set_aside(folder)
        Console().print(f"force=true: the run that was there is kept in {old}", highlight=False, soft_wrap=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be written ({problem.strerror}); give another output_dir.") from None
    with replacing(folder / CONFIG) as part:
        part.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
