"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import safetensors

from peftbench.common.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well; else `path` stays as it was.

    Raises:
        UserError: writing failed (no space, no permission).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
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
        why = getattr(problem, "strerror", None) or problem  # not the name of the part
        raise UserError(f"{path}: could not be written ({why}); what was there before is kept.") from None
    except RuntimeError as problem:  # torch.save reports a full disk so
        if not any(w in str(problem) for w in ("write", "file", "unexpected pos")):
            raise
        raise UserError(
            f"{path}: could not be written ({str(problem).splitlines()[0]}); what was there before is kept."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def give_usual_mode(file: Path) -> None:
    """The permissions that a new file has here: some writers make files that only their owner can read."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        ordinary = Path(folder) / "ordinary"
        ordinary.touch()
        file.chmod(ordinary.stat().st_mode)
