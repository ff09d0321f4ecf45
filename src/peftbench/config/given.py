"""What a function of Python was given in the place of a config, or of its words, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.config.schema import Config


def described(value: Any) -> str:
    """`None`, `the text 'method=lora'`, `a dict`, `an int`."""
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"the text {shortened(repr(value), 80)}"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def refuse_no_config(function: str, given: Any) -> None:
    """Raises UserError where `given` is no config; `function` is the one that takes it, such as `run`."""
    if not isinstance(given, Config):
        example = 'peftbench.compose("method=lora", "backbone=vit_nano")'
        raise UserError(f"{function}: takes a config, and was given {described(given)}; make one with {example}.")


def refuse_no_words(words: Sequence[Any]) -> None:
    """Raises UserError where one of the words for a config is no text, or has dashes as on a command line."""
    for word in words:
        if isinstance(word, list | tuple):
            several = " a star gives its words one by one: peftbench.compose(*words)"
        elif isinstance(word, Mapping):
            several = ' write a word for each key: peftbench.compose("method=lora")'
        elif not isinstance(word, str):
            several = ' such as peftbench.compose("method=lora", "trainer.epochs=5")'
        else:
            _refuse_dashes(word)
            continue
        raise UserError(f"compose: takes words, each a text, and was given {described(word)};{several}.")


def _refuse_dashes(word: str) -> None:
    from peftbench.config.near_keys import undashed_key

    name, sign, value = word.partition("=")
    if name.startswith("--") and (key := undashed_key(name)):
        raise UserError(f"{word}: keys have no dashes here; give {key}={value if sign else '…'}.")
