"""The one parser: it reads the words of every verb by the verb's table.

`--x=y`, `--x y` and `x=y` mean the same, and so does `--x` for `x=true`; dashes and underscores in a name are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.common.errors import UserError, nearest
from peftbench.common.home import with_home
from peftbench.common.other_words import OPTION_VALUES, OPTIONS

_PATHS = ("file", "folder", "run")
_TRUTH = {"true": True, "false": False}


def parse(command: Command, words: Iterable[str]) -> Words:
    """Reads the words after a command.

    A word with `=` that is no argument's is a plain word where a file of that name exists; so is every word after `--`.

    Raises:
        UserError: an unknown word, a value of another type, or something that is needed and not given.
    """
    named: dict[str, str] = {}
    written: dict[str, str] = {}
    plain: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            plain += rest
            break
        argument, value = find_argument(command, word)
        if argument is None:
            if _names_a_key(command, word) and rest and not rest[0].startswith("-") and "=" not in rest[0]:
                word = f"{word}={rest.pop(0)}"
            _take_plain_word(command, word, plain, overrides)
            continue
        if value is None:
            value, more = _value_that_follows(argument, rest)
            word, rest = " ".join([word, *more]), rest[len(more) :]
        if not value:
            raise command.refusal(word, f"needs a value, such as {_example(argument)}")
        named[argument.name] = value
        written[argument.name] = word
    values: dict[str, Any] = {name: _converted(_by_name(command)[name], value) for name, value in named.items()}
    values |= _by_place(command, plain, named)
    for argument in command.all_arguments():
        if argument.needed and argument.name not in values:
            raise command.refusal("", f"needs {argument.usage()}")
        values.setdefault(argument.name, [] if argument.several else argument.default)
    return Words(values, written, overrides)


def find_argument(command: Command, word: str) -> tuple[Argument | None, str | None]:
    """The argument that a word names, if any, and its value, if the word holds it."""
    for argument in command.arguments:
        if argument.short and word == argument.short:
            return argument, None
    key, sign, value = word.removeprefix("--").partition("=")
    argument_named = _by_name(command).get(key.replace("-", "_"))
    if not sign and not word.startswith("--"):
        return None, None
    return argument_named, value if sign else None


def _by_name(command: Command) -> dict[str, Argument]:
    return {a.name: a for a in command.all_arguments() if not a.several}


def _value_that_follows(argument: Argument, rest: Sequence[str]) -> tuple[str, list[str]]:
    """The value of a dashed word without `=`, and the words that it takes up."""
    if argument.kind == "flag":
        return (rest[0], [rest[0]]) if rest and rest[0] in _TRUTH else ("true", [])
    if rest and not rest[0].startswith("--"):
        return rest[0], [rest[0]]
    return "", []


def _take_plain_word(command: Command, word: str, plain: list[str], overrides: list[str]) -> None:
    """Puts a word that names no argument where it belongs. Raises UserError."""
    key, sign, value = word.partition("=")
    if word.startswith("-"):
        if not (command.takes_overrides and sign and key.startswith("--")):
            raise _unknown(command, word)
        overrides.append(f"{key[2:].replace('-', '_')}={value}")
        return
    by_place = any(argument.place for argument in command.arguments)
    if (not sign and (by_place or not command.takes_overrides)) or (by_place and Path(word).exists()):
        plain.append(word)
    elif command.takes_overrides:
        overrides.append(word)
    else:
        raise _unknown(command, word)


def _names_a_key(command: Command, word: str) -> bool:
    """Whether it is `--key` of a command that takes overrides, so that its value follows."""
    key = word.removeprefix("--").replace("-", "_")
    return command.takes_overrides and word.startswith("--") and all(map(str.isidentifier, key.split(".")))


def _unknown(command: Command, word: str) -> UserError:
    name = word.partition("=")[0].lstrip("-").replace("-", "_")
    hint = nearest(name, [a.name for a in command.shown_arguments() if not a.several], OPTIONS)
    return command.refusal(word, f"there is no such option{hint}")


def _by_place(command: Command, plain: list[str], named: dict[str, str]) -> dict[str, Any]:
    """The values of the arguments that plain words give. Raises UserError."""
    values: dict[str, Any] = {}
    rest = list(plain)
    for argument in command.arguments:
        if not argument.place or argument.name in named:
            continue
        if argument.needed and not rest:
            raise command.refusal("", f"expected {command.expected}")
        if argument.several:
            values[argument.name], rest = [_converted(argument, word, word) for word in rest], []
        elif rest:
            word = rest.pop(0)
            if argument.choices and word not in (*argument.choices, *argument.also):
                raise command.refusal(word, f"expected {command.expected}{nearest(word, argument.choices)}")
            values[argument.name] = _converted(argument, word, word)
    if rest and command.expected:
        raise command.refusal(rest[0], f"expected {command.expected}")
    if rest:
        if nearest(rest[0], [argument.name for argument in command.shown_arguments()], OPTIONS):
            raise _unknown(command, rest[0])
        lacking = [a.name for a in command.all_arguments() if a.needed and not a.place and a.name not in named]
        if lacking and len(rest) <= len(lacking):
            meant = " ".join(f"{name}={word}" for name, word in zip(lacking, rest, strict=False))
            raise command.refusal(rest[0], f"takes no such word; give {meant}")
        raise command.refusal(rest[0], "takes no such word")
    return values


def _example(argument: Argument) -> str:
    return f"{argument.name}={argument.choices[0] if argument.choices else argument.value_in_usage()}"


def _converted(argument: Argument, value: str, word: str = "") -> Any:
    """The value in the type that its argument has; `word` is it as a plain word. Raises UserError."""
    shown = word or f"{argument.name}={value}"
    if argument.choices and value not in (*argument.choices, *argument.also):
        expected = " or ".join(argument.choices)
        raise UserError(f"{shown}: expected {expected}{nearest(value, argument.choices, OPTION_VALUES)}.")
    if argument.kind == "flag":
        if value.lower() not in _TRUTH:
            raise UserError(f"{shown}: expected true or false.")
        return _TRUTH[value.lower()]
    try:
        if argument.kind == "whole number":
            return int(value)
        if argument.kind == "number":
            return float(value)
    except ValueError:
        raise UserError(f"{shown}: expected a {argument.kind}.") from None
    return with_home(value, shown) if argument.kind in _PATHS else value
