"""Text that somebody else wrote."""

from __future__ import annotations

from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.regular_files import text_in


def text_of(file: Path) -> str:
    """A file's text, without a mark of its byte order. Raises UserError where it is no UTF-8 or cannot be read."""
    try:
        return text_in(file, "utf-8-sig")
    except UnicodeDecodeError as problem:
        raise UserError(f"{file}: is not text in UTF-8 ({problem.reason} at byte {problem.start}).") from None
    except OSError as problem:
        raise UserError(f"{file}: cannot be read ({problem.strerror}).") from None
