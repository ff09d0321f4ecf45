"""`peftbench`: help, verbs, and by default a run. Answers what it can without importing anything heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from peftbench.cli.arguments import CommandGroup
from peftbench.cli.hydra_options import separate
from peftbench.cli.parser import parse
from peftbench.cli.verbs import VERBS, command_of, split_verb
from peftbench.common.errors import UserError, nearest
from peftbench.common.foreign_text import readable
from peftbench.common.notes import show_notes_as_lines
from peftbench.common.other_words import VERBS as OTHER_VERBS
from peftbench.common.readable_names import show_names_on
from peftbench.common.status_line import doing, status_line
from peftbench.common.stopping import silence_output
from peftbench.common.terminal import visible

_HELP = ("--help", "-h")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, 1 a run failed, 2 the user's mistake, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_notes_as_lines()
    show_names_on(sys.stdout, sys.stderr)
    try:
        status = _answer(arguments)
        sys.stdout.flush()
        return status
    except UserError as mistake:
        print(f"peftbench: {visible(str(mistake))}", file=sys.stderr)
        return 1 if mistake.begun and mistake.of else 2  # a damaged image ends a run that was asked for rightly
    except KeyboardInterrupt:
        print("\npeftbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) went away
        silence_output()
        return 0
    except (OSError, MemoryError, RecursionError) as problem:  # of the machine, where no one else could say it better
        if isinstance(problem, OSError) and problem.filename is None:
            silence_output()  # else what is left of it is tried again at the end
        print(f"peftbench: {_of_machine(problem)}", file=sys.stderr)
        return 2


def _of_machine(problem: BaseException) -> str:
    if isinstance(problem, OSError) and problem.filename is not None:
        return f"{visible(readable(str(problem.filename)))}: cannot be used ({problem.strerror})."
    if isinstance(problem, OSError):
        return f"the standard output: could not be written ({problem.strerror or problem})."
    if isinstance(problem, MemoryError):
        return "what was asked for takes more memory than there is."
    return "what was given is nested too deeply to be read."


def _answer(arguments: list[str]) -> int:
    verb, words = split_verb(arguments)
    help_wanted = _asks_for_help(arguments)
    if verb == "help" and words and not words[0].startswith("-"):
        if words[0] not in VERBS:
            hint = nearest(words[0], VERBS, OTHER_VERBS)
            raise UserError(f"help {words[0]}: there is no such command{hint}; see peftbench --help.")
        verb, words, help_wanted = words[0], words[1:], True
    if help_wanted and verb in VERBS:
        from peftbench.cli.help import print_command_help

        return print_command_help(command_of(verb), [word for word in words if word not in _HELP])
    if help_wanted or verb == "help" or not arguments:
        from peftbench.cli.help import print_help

        return print_help(arguments)
    if not verb and "--version" in arguments:
        from peftbench import __version__

        print(f"peftbench {__version__}", flush=True)
        from peftbench.common.gpus import torch_build  # after that line: importing torch takes seconds

        print(torch_build())
        return 0
    if verb in VERBS:
        with status_line(_shows_progress(arguments)):
            return _answer_verb(verb, words)
    if verb and "=" not in verb and verb[0] not in "+~":
        separate(arguments)  # an option that is not there comes first: `--method lora`
        hint = nearest(verb, [*VERBS, "help"], OTHER_VERBS)
        raise UserError(
            f"'{verb}': there is no such command{hint}; a run is given as key=value, such as method=lora "
            f"backbone=vit_nano data=digits."
        )
    with status_line(_shows_progress(arguments)):
        doing("reading the configuration")
        from peftbench.cli.train import train

        return train(arguments)


def _shows_progress(arguments: list[str]) -> bool:
    return "trainer.progress=false" not in arguments and "--trainer.progress=false" not in arguments


def _asks_for_help(arguments: list[str]) -> bool:
    """Whether --help is among the words; those after `--` are somebody's words to complete."""
    asked = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return not set(_HELP).isdisjoint(asked)


def _answer_verb(verb: str, words: list[str]) -> int:
    command = command_of(verb)
    if isinstance(command, CommandGroup):
        command, words = command.choose(words)
    return command.answer(parse(command, words))


if __name__ == "__main__":
    sys.exit(main())
