"""The errors that one sentence explains."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: its text is the whole message, shown without a traceback.

    Attributes:
        of: `data` or `weights` where it is a mistake of what other runs may need too; else empty.
    """

    of: str = ""


class Refusal(UserError):
    """A combination that peftbench does not carry out: says why, and names what would work."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'lora'?)`` where a known word is near, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
