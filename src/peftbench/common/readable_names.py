"""Names of files whose bytes are no UTF-8, as archives of other systems leave them: read as they are, shown in words.

Python holds such a byte as half of a character, which no UTF-8 file, JSON or terminal takes; it is shown as `\\xe9`.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Mapping
from typing import Any, TypeVar

HANDLER = "readable_names"
"""The name of the handler of encoding errors, for files of text."""

T = TypeVar("T")


def readable(text: str) -> str:
    """The text with each byte that is no UTF-8 as `\\xe9`; any other text as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors=HANDLER).decode()
    return text


def readable_in(values: T) -> T:
    """As `readable`, of all texts in lists and mappings."""
    made: Any = values
    if isinstance(values, str):
        made = readable(values)
    elif isinstance(values, Mapping):
        made = {readable_in(key): readable_in(value) for key, value in values.items()}
    elif isinstance(values, list | tuple):
        made = type(values)(readable_in(value) for value in values)
    return made


def is_text(text: str) -> bool:
    """Whether a file in UTF-8 can hold the text."""
    return readable(text) is text


def composed(text: str) -> str:
    """The text with each accent in its letter (NFC): a Mac writes two characters where other systems write one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def forms_of(path: str) -> list[str]:
    """The ways in which a relative path may be written on the disk, as it stands first.

    Windows writes backslashes between folders, and a Mac accents apart from their letters (NFD).
    """
    forms = [path, path.replace("\\", "/")] if "\\" in path else [path]
    if not path.isascii():
        forms += [unicodedata.normalize(form, text) for text in forms for form in ("NFC", "NFD")]
    return list(dict.fromkeys(forms))


def show_names_on(*streams: Any) -> None:
    """Lets streams of text write every name, and in encodings that lack a character its number."""
    for stream in streams:
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def _in_words(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    characters = map(ord, problem.object[problem.start : problem.end])
    shown = (f"\\x{c - 0xDC00:02x}" if 0xDC80 <= c <= 0xDCFF else ascii(chr(c))[1:-1] for c in characters)
    return "".join(shown), problem.end


codecs.register_error(HANDLER, _in_words)
