"""A run's folder: one process has it at a time, and what a forced run replaces is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.console import Console

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.runs.plan_file import CONFIG


@contextlib.contextmanager
def owned_folder(folder: Path, rank: int, group: str | None) -> Iterator[None]:
    """One process carries out a run at a time; another job of the same sweep waits until it is over.

    Raises:
        UserError: another process is at it, or nothing can be written.
    """
    if rank:
        yield
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        locks = folder.parent / ".locks"
        locks.mkdir(exist_ok=True)
        lock = (locks / folder.name).open("a+")
    except OSError as problem:
        raise UserError(f"output_dir={folder.parent}: cannot be written ({problem.strerror}); give another.") from None
    with lock:
        try:
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                if not group or lock.read() != group:
                    raise
                fcntl.flock(lock, fcntl.LOCK_EX)
        except ImportError:  # not on Windows: two processes at one run are then not noticed
            pass
        except OSError:
            raise UserError(f"{folder}: another process is carrying out this very run; wait for it.") from None
        lock.truncate(0)
        lock.write(group or "")
        lock.flush()
        yield


def prepared_folder(folder: Path, config: Config) -> None:
    """The run's folder with the resolved config. What a forced run replaces is kept beside it."""
    if config.force and folder.exists():
        old = folder.with_name(f".{folder.name}.previous")
        number = 1
        while old.exists():
            number += 1
            old = folder.with_name(f".{folder.name}.previous-{number}")
        folder.rename(old)
        Console().print(f"force=true: the run that was there is kept in {old}", highlight=False, soft_wrap=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be written ({problem.strerror}); give another output_dir.") from None
    with replacing(folder / CONFIG) as part:
        part.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))
