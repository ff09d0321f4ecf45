"""The verbs of the command line, and which of the words is one."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from peftbench.cli.arguments import Command, CommandGroup, place_of_command
from peftbench.cli.hydra_options import is_value

VERBS = {
    "list": "peftbench.cli.listing",
    "auto": "peftbench.cli.auto",
    "plan": "peftbench.cli.plan",
    "predict": "peftbench.cli.predict",
    "evaluate": "peftbench.cli.evaluate",
    "export": "peftbench.cli.export",
    "benchmark": "peftbench.cli.benchmark",
    "push": "peftbench.cli.push",
    "share": "peftbench.cli.share",
    "bundle": "peftbench.cli.bundle",
    "serve": "peftbench.cli.serve",
    "data": "peftbench.cli.data",
    "taps": "peftbench.cli.taps",
    "layers": "peftbench.cli.layers",
    "report": "peftbench.cli.report",
    "choose": "peftbench.cli.choose",
    "completion": "peftbench.cli.completion",
}
"""Verb -> the module that declares it as `COMMAND`, imported when it is asked for."""


def command_of(verb: str) -> Command | CommandGroup:
    """What a verb declares."""
    command: Command | CommandGroup = importlib.import_module(VERBS[verb]).COMMAND
    return command


def split_verb(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The first word that is no option, nor the value of one, and the other words; the verb is empty if none is."""
    plain = [i for i, word in enumerate(arguments) if not word.startswith("-") and not is_value(arguments, i)]
    position = place_of_command(arguments, plain, VERBS)
    if position is None:
        return "", list(arguments)
    return arguments[position], [*arguments[:position], *arguments[position + 1 :]]
