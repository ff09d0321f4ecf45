"""Text that somebody else wrote."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def table_of(file: Path, text: str, trimmed: bool = False) -> Iterator[csv.DictReader[str]]:
    """The rows of a CSV file's text, by the columns of its heading.

    Args:
        file: where the text is from, for messages.
        text: all of it.
        trimmed: whether blanks behind a comma are left out.

    Raises:
        UserError: within the block too, where it is no table: a quote that is not closed, which would take the rest of
            the file for one field, or a field that is longer than any name.
    """
    with io.StringIO(text, newline="") as lines:
        rows = csv.DictReader(lines, skipinitialspace=trimmed, strict=True)
        try:
            yield rows
        except csv.Error as problem:
            why = "a quote that is opened is not closed" if "unexpected end" in str(problem) else str(problem)
            raise UserError(
                f"{file}: cannot be read as a CSV ({why}); expected a heading and a line for each row, and quotes "
                f"around a field that holds commas or quotes, which stand twice in it."
            ) from None
