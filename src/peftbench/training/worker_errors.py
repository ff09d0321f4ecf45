"""The sentence of an error that a loader's worker process met."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from peftbench.common.errors import UserError


@contextlib.contextmanager
def plain_sentences() -> Iterator[None]:
    """Takes off the traceback that torch's DataLoader puts around the message of an error from a worker process.

    Raises:
        UserError: as the worker raised it, its sentence alone; or a worker process was ended from outside.
    """
    try:
        yield
    except UserError as problem:
        kind = type(problem)
        lines = str(problem).replace("\u240a", "\n")  # a sentence is one line: the traceback's ends of lines are shown
        sentences = re.findall(rf"^[\w.]*\b{kind.__name__}: (.+)$", lines, re.MULTILINE)
        if "Original Traceback" not in str(problem) or not sentences:
            raise
        raise kind(sentences[-1]) from None
    except RuntimeError as problem:
        ended = re.search(
            r"DataLoader worker \(pid.*?\) (is killed by signal: [\w ]+|exited unexpectedly)", str(problem)
        )
        if ended is None:
            raise
        how = ended[1].removeprefix("is ").strip()
        raise UserError(
            f"data.workers: a process that reads images was ended from outside ({how}), as the system does for want of "
            f"memory; start the run again, which goes on from its checkpoint, with data.workers=0 or fewer than before."
        ) from None
