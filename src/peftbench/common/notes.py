"""Notes: what a user should know of a file that is read all the same; warnings, which a program can silence."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from peftbench.common.terminal import visible


class Note(UserWarning):
    """Something that a user should know of a file; the answer goes on."""


def note(text: str) -> None:
    """Tells a note: on the command line as one line, in Python as a warning, each text once."""
    warnings.warn(text, Note, stacklevel=2)


def show_notes_as_lines() -> None:
    """Has the command line print a note as its text alone, without the place in the source."""
    plain = warnings.showwarning
    if getattr(plain, "shows_notes", False):
        return

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, Note):
            print(f"note: {visible(str(message))}", file=sys.stderr)
        else:
            plain(message, category, *place, **more)

    show.shows_notes = True  # type: ignore[attr-defined]
    warnings.showwarning = show
