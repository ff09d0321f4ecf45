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
        UserError: as the worker raised it, its sentence alone.
    """
    try:
        yield
    except UserError as problem:
        kind = type(problem)
        sentences = re.findall(rf"^[\w.]*\b{kind.__name__}: (.*)$", str(problem), re.MULTILINE)
        if "Original Traceback" not in str(problem) or not sentences:
            raise
        raise kind(sentences[-1]) from None
