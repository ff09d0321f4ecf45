"""Text of other libraries and files inside our sentences: one sentence of it, in whole words."""

from __future__ import annotations

import re

LONGEST = 160
"""Characters of a foreign sentence that a message of ours still holds with ease."""
_LONG_WORD = re.compile(r"\S{601,}")
_HEAD, _TAIL, _LONGEST_MESSAGE = 200, 80, 2_000


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text in at most `longest` characters: cut between words, with `…` where something is left out.

    A single word that is longer is cut, and the mark follows it at once.
    """
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    whole_words = text[: longest - 1].rpartition(" ")[0].rstrip(",;:")
    return f"{whole_words} …" if whole_words else f"{text[: longest - 1]}…"


def readable(text: str) -> str:
    """A whole message, a line of at most some 2,000 characters: what was given is cut in its middle where it is longer.

    A path of any system that has users stays whole.
    """
    text = text.replace("\r", "␍").replace("\n", "␊")
    text = _LONG_WORD.sub(lambda word: f"{word[0][:_HEAD]}…{word[0][-_TAIL:]}", text)
    if len(text) <= _LONGEST_MESSAGE:
        return text
    return f"{text[: _LONGEST_MESSAGE // 4]} … {text[-_LONGEST_MESSAGE * 3 // 4 :]}"


def first_sentence(problem: BaseException | str, longest: int = LONGEST) -> str:
    """What an error says first, without its full stop, or its class where it says nothing."""
    text = str(problem).strip()
    if not text:
        return type(problem).__name__
    line = text.splitlines()[0].strip()
    sentence = re.split(r"(?<=[^\s.])\.\s+(?=[A-Z])", line, maxsplit=1)[0]
    return shortened(sentence.rstrip("."), longest)
