"""What a verb takes, as a table: `parser.py` reads words by it, `help.py` shows it, `candidates.py` completes by it.

A module of a verb declares its table as `COMMAND`, beside the function that answers. It imports little, because the
tables of all verbs are read for `peftbench --help` and for completion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from peftbench.common.errors import UserError, nearest

Kind = Literal["text", "whole number", "number", "flag", "file", "folder", "run"]
_PLACEHOLDERS: dict[Kind, str] = {"whole number": "N", "number": "X", "file": "FILE", "folder": "FOLDER"}
_PLACEHOLDERS |= {"run": "FOLDER", "text": "…", "flag": "true"}


@dataclass(frozen=True)
class Argument:
    """One thing that a command takes.

    Attributes:
        name: as in `name=value`.
        help: one line for the command's `--help`.
        kind: what the value is; files, folders and run folders stay strings.
        default: the value where no word gives one.
        needed: whether a word must give it.
        choices: the only values that are permitted, if any.
        also: values that are permitted too, but not shown.
        suggestions: values that completion offers where any is permitted.
        placeholder: what stands for the value in usage lines, such as FOLDER; chosen by kind and choices if empty.
        place: whether it is given as a plain word, by its place, and need not be named.
        several: whether it takes all remaining plain words; its value is a list.
        short: a short flag of the same meaning, such as -cd.
        shown: whether `peftbench --help` shows it though it is not needed.
        hidden: whether no help shows it.
    """

    name: str
    help: str
    kind: Kind = "text"
    default: Any = None
    needed: bool = False
    choices: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    placeholder: str = ""
    place: bool = False
    several: bool = False
    short: str = ""
    shown: bool = False
    hidden: bool = False

    def value_in_usage(self) -> str:
        """What stands for its value in a usage line."""
        return self.placeholder or "|".join(self.choices) or _PLACEHOLDERS[self.kind]

    def usage(self) -> str:
        """It in a usage line, in brackets where it may be left out."""
        shown = f"{self.name}={self.value_in_usage()}"
        if self.place:
            shown = self.value_in_usage() + (" …" if self.several else "")
        elif self.short:
            shown = f"--{self.name.replace('_', '-')} {self.value_in_usage()}"
        elif self.kind == "flag":
            shown = f"--{self.name.replace('_', '-')}"
        elif self.default is not None and not self.placeholder and not self.choices:
            shown = f"{self.name}={self.default}"
        return shown if self.needed else f"[{shown}]"


@dataclass(frozen=True)
class Words:
    """The words of a command, read by its table.

    Attributes:
        values: name -> value of every argument, defaults among them.
        written: name -> the word as the user wrote it, of the arguments that were given by name.
        overrides: the words that are for the config of a run, of a command that takes them.
    """

    values: dict[str, Any]
    written: dict[str, str]
    overrides: list[str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(frozen=True)
class Command:
    """A verb, or one of the commands of a verb such as `data`.

    Attributes:
        name: as the user writes it, such as `predict` or `data prepare`.
        summary: one line for `peftbench --help`.
        answer: does what is asked for and returns the exit status; it may raise UserError.
        arguments: those by place first, in their order.
        expected: what the plain words are, for the sentence that refuses others.
        takes_overrides: whether other words, such as method=lora, are for the config of a run.
        described_overrides: those of them that the usage line shows.
        overrides_help: what its help says of them below the arguments.
        description: what `--help` of the command says below the summary.
        examples: whole command lines.
        late_arguments: more arguments, none of them by place, that take time to find and are asked for when needed.
    """

    name: str
    summary: str
    answer: Callable[[Words], int]
    arguments: tuple[Argument, ...] = ()
    expected: str = ""
    takes_overrides: bool = False
    described_overrides: tuple[str, ...] = ("method=…", "backbone=…", "data=…")
    overrides_help: str = "and any key=value of a run: peftbench --help, and peftbench --cfg job"
    description: str = ""
    examples: tuple[str, ...] = ()
    late_arguments: Callable[[], tuple[Argument, ...]] | None = None

    def all_arguments(self) -> tuple[Argument, ...]:
        """The arguments, with those that are found late."""
        return self.arguments + (self.late_arguments() if self.late_arguments else ())

    def usage(self, brief: bool = False) -> str:
        """The usage line; a brief one leaves out what need not be given."""
        return " ".join(self.usage_words(brief))

    def usage_words(self, brief: bool = False) -> list[str]:
        """The usage line in pieces that belong together."""
        overrides = self.described_overrides if self.takes_overrides else ()
        brief_arguments = [a for a in self.arguments if not a.hidden and (a.needed or a.place or a.shown)]
        shown = brief_arguments if brief else self.shown_arguments()
        return [f"peftbench {self.name}", *overrides, *(a.usage() for a in shown)]

    def shown_arguments(self) -> list[Argument]:
        """The arguments that help shows."""
        return [a for a in self.all_arguments() if not a.hidden]

    def refusal(self, word: str, what: str) -> UserError:
        """The sentence about one of the words."""
        return UserError(f"{' '.join([self.name, word]).strip()}: {what}; see peftbench {self.name} --help.")


@dataclass(frozen=True)
class CommandGroup:
    """A verb that has commands of its own; `default` is the one that no word chooses, if any."""

    name: str
    summary: str
    commands: tuple[Command, ...]
    default: str = ""

    def choose(self, words: Sequence[str]) -> tuple[Command, list[str]]:
        """The command that the first plain word names, and the other words.

        Raises:
            UserError: there is no such command.
        """
        by_name = {command.name.split()[-1]: command for command in self.commands}
        *others, last = by_name
        expected = f"expected {', '.join(others)} or {last}; see peftbench {self.name} --help."
        plain = [i for i, word in enumerate(words) if not word.startswith("-") and "=" not in word]
        position = place_of_command(words, plain, by_name)
        if position is None and self.default:
            return by_name[self.default], list(words)
        if position is None:
            raise UserError(f"{self.name}: {expected}")
        word = words[position]
        if word not in by_name:
            raise UserError(f"{self.name} {word}: there is no such command{nearest(word, by_name)}; {expected}")
        return by_name[word], [*words[:position], *words[position + 1 :]]


def place_of_command(words: Sequence[str], plain: Sequence[int], known: Collection[str]) -> int | None:
    """Where among the words the command stands; None where there is none.

    It is the first plain word, unless that may be the value of `--x` before it and a known command comes later.

    Args:
        plain: the places of words that are no options.
        known: the names of commands.
    """
    for position in plain:
        may_be_value = position > 0 and words[position - 1].startswith("--") and "=" not in words[position - 1]
        if words[position] in known or not may_be_value:
            return position
    return plain[0] if plain else None


CONFIG_DIR = Argument(
    "config_dir", "your own YAML files beside peftbench's", kind="folder", placeholder="DIR", short="-cd"
)
