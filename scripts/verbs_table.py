"""Every verb, for `docs/verbs.md`: made from the tables that the command line reads words by (`make docs-tables`)."""

from __future__ import annotations

from collections.abc import Iterator

from peftbench.cli.arguments import Argument, Command, CommandGroup
from peftbench.cli.verbs import VERBS, command_of


def table() -> str:
    """A section a command: its usage, what it takes with defaults, examples."""
    return "\n\n".join(_section(command) for command in commands())


def commands() -> Iterator[Command]:
    """Every command of every verb, in the order of `peftbench --help`."""
    for verb in VERBS:
        command = command_of(verb)
        yield from command.commands if isinstance(command, CommandGroup) else (command,)


def _section(command: Command) -> str:
    lines = [f"## {command.name}", "", f"{command.summary[0].upper()}{command.summary[1:]}.", ""]
    lines += ["```text", " ".join(command.usage_words()), "```", ""]
    if command.description:
        lines += [command.description, ""]
    if arguments := command.shown_arguments():
        lines += ["| argument | takes | default | means |", "|---|---|---|---|", *map(_row, arguments), ""]
    if command.takes_overrides:
        lines += ["It takes the keys of a run, too: [every one](config.md).", ""]
    if command.examples:
        lines += ["```", *command.examples, "```", ""]
    return "\n".join(lines).rstrip()


def _row(argument: Argument) -> str:
    name = f"--{argument.name.replace('_', '-')}" if argument.short else argument.name
    short = f", `{argument.short}`" if argument.short else ""
    takes = ", ".join(f"`{choice}`" for choice in argument.choices) or _kind(argument)
    if argument.place:
        takes += ", as a plain word" + (" or several" if argument.several else "")
    default = "–" if argument.default in (None, []) else f"`{_shown(argument.default)}`"
    default = "needed" if argument.needed else default
    return f"| `{name}`{short} | {takes} | {default} | {argument.help.replace('|', chr(92) + '|')} |"


def _kind(argument: Argument) -> str:
    words = {"run": "the folder of a run", "file": "a file", "folder": "a folder", "flag": "`true`, `false`"}
    return words.get(argument.kind, "a number" if argument.kind == "number" else argument.kind)


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
