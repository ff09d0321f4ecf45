"""The errors that one sentence explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from peftbench.common.foreign_text import readable


class UserError(Exception):
    """A mistake in what the user gave: its text is the whole message, shown without a traceback.

    Attributes:
        of: `data` or `weights` where it is a mistake of what other runs may need too; else empty.
        begun: whether it ended a run that had begun, whose record says `failed`.
    """

    of: str = ""
    begun: bool = False

    def __init__(self, text: str = "") -> None:
        super().__init__(readable(text))


class Refusal(UserError):
    """A combination that peftbench does not carry out: says why, and names what would work."""


def nearest(
    word: str, known: Iterable[str], meant: Mapping[str, tuple[str, ...]] | None = None, complete: bool = False
) -> str:
    """`` (did you mean 'lora'?)`` where a known word is near, else an empty string; `near_names` says what is near."""
    from peftbench.common.near_names import nearest_name

    return suggested(nearest_name(word, known, meant, complete))


def suggested(name: str | None) -> str:
    """`` (did you mean 'lora'?)``, or an empty string where there is no name."""
    return f" (did you mean '{name}'?)" if name else ""
