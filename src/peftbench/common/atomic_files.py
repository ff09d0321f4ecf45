"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.leftovers import part_name


@contextlib.contextmanager
def replacing(path: Path, explain: Callable[[str], str] | None = None) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well; else `path` stays as it was.

    Args:
        explain: the sentence for a failure, given why; without it, the sentence says that the old file is kept.

    Raises:
        UserError: writing failed (no space, no permission).
    """
    explain = explain or (lambda why: f"{path}: could not be written ({why}); what was there before is kept.")
    part = path.with_name(part_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors makes files that only their owner can read
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except (OSError, safetensors.SafetensorError) as problem:
        raise UserError(explain(why_not_written(problem))) from None
    except RuntimeError as problem:  # torch.save reports a full disk so
        if not any(word in str(problem) for word in ("write", "file", "unexpected pos")):
            raise
        raise UserError(explain(why_not_written(problem))) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def why_not_written(problem: Exception) -> str:
    """Why a library could not write a file, without its own words for that and the name of the part."""
    if reason := getattr(problem, "strerror", None):
        return str(reason)
    if number := re.search(r"\(os error (\d+)\)", str(problem)):  # as safetensors writes it
        return os.strerror(int(number[1]))
    if "[enforce fail" in str(problem) or "iostream" in str(problem):  # as torch does, which knows no reason
        return "the disk took no more of it; it may be full"
    return first_sentence(problem)


def give_usual_mode(file: Path) -> None:
    """The permissions that a new file has here: some writers make files that only their owner can read."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        ordinary = Path(folder) / "ordinary"
        ordinary.touch()
        file.chmod(ordinary.stat().st_mode)
