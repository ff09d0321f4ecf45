"""Text of other libraries and files inside our sentences: one sentence of it, in whole words."""

from __future__ import annotations

import re

LONGEST = 160
"""Characters of a foreign sentence that a message of ours still holds with ease."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text in at most `longest` characters: cut between words, with `…` where something is left out.

    A single word that is longer is cut, and the mark follows it at once.
    """
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    whole_words = text[: longest - 1].rpartition(" ")[0].rstrip(",;:")
    return f"{whole_words} …" if whole_words else f"{text[: longest - 1]}…"


def first_sentence(problem: BaseException | str, longest: int = LONGEST) -> str:
    """What an error says first, without its full stop, or its class where it says nothing."""
    text = str(problem).strip()
    if not text:
        return type(problem).__name__
    line = text.splitlines()[0].strip()
    sentence = re.split(r"(?<=[^\s.])\.\s+(?=[A-Z])", line, maxsplit=1)[0]
    return shortened(sentence.rstrip("."), longest)
