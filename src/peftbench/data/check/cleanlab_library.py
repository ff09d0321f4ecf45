"""The library of confident learning, which is an extra."""

from __future__ import annotations

from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence


def require_cleanlab() -> Any:
    """The library. Raises UserError: how to install it."""
    try:
        import cleanlab.filter
        import cleanlab.rank
    except ImportError as problem:
        raise UserError(
            f"data check backbone=…: needs the library cleanlab ({first_sentence(problem)}); "
            f"pip install 'peftbench[check]'."
        ) from None
    return cleanlab
