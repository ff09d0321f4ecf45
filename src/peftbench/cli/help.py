"""`peftbench --help`, and `--help` of every command, made from the tables of the verbs."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.cli.arguments import Argument, Command, CommandGroup
from peftbench.cli.verbs import VERBS, command_of
from peftbench.common.config_files import names, roots

_WIDTH = 110
_TEXT = """\
peftbench {version}: fine-tune any pretrained vision backbone with any adaptation method, and see what it cost.

  peftbench method=… backbone=… data=… [trainer=… optimizer=… logger=… experiment=… debug=…] [key=value …]
{verbs}
  peftbench VERB --help                       all that a verb takes, with examples

methods    {methods}
backbones  {backbones}
data       {data}
trainers   {trainers}

examples
  peftbench method=lora backbone=vit_nano data=digits
  peftbench method=full backbone=efficientnet_lite0 data=folder data.root=~/photos trainer.epochs=10
  peftbench -m method=full,linear,bitfit seed='range(3)' 'data=glob(vtab/*)'

  -m                     every combination of comma-separated values, in one table
  sweep.together=8       with -m: up to eight runs of a side method in one pass
  sweep.retry=true       with -m: run again what failed, too
  hydra/launcher=joblib  with -m: several at a time; submitit_slurm, ray; hydra/sweeper=optuna searches
  protocol=vtab1k        with -m: tune on validation images, test once (experiment=vtab1k method=…)
  --cfg job              print the composed config instead of running (-p data: one part; --resolve)
  --config-dir DIR       your own YAML files beside peftbench's; so does hydra.searchpath=[file:///…]
  --hydra-help           what else Hydra offers
"""


def print_help(arguments: Sequence[str]) -> int:
    """Prints what there is; the names are also of the folders of configs that the arguments add. Raises UserError."""
    from peftbench import __version__

    folders = roots(arguments)

    def wrapped(group: str) -> str:
        nested: dict[str, int] = {}
        plain = []
        for name in names(group, folders):
            family, slash, _ = name.partition("/")
            if slash:
                nested[family] = nested.get(family, 0) + 1
            else:
                plain.append(name)
        return _fill([*plain, *(f"{family}/<{count} tasks>" for family, count in nested.items())])

    print(
        _TEXT.format(
            version=__version__,
            verbs="\n".join(line for verb in VERBS for line in _verb_lines(command_of(verb))),
            methods=wrapped("method"),
            backbones=wrapped("backbone"),
            data=wrapped("data"),
            trainers=wrapped("trainer"),
        ),
        end="",
    )
    return 0


def print_command_help(command: Command | CommandGroup, words: Sequence[str]) -> int:
    """Prints what a verb takes; for a verb with commands of its own, what the named one takes, or all of them."""
    if isinstance(command, Command):
        print("\n".join(_help_lines(command)))
        return 0
    if words:
        chosen, _ = command.choose(words)
        print("\n".join(_help_lines(chosen)))
        return 0
    print(f"{_sentence(command.summary)}\n")
    print("\n".join(_verb_lines(command)))
    print(f"\npeftbench {command.name} COMMAND --help says what each takes.")
    return 0


def _help_lines(command: Command) -> list[str]:
    lines = [_fill(command.usage_words(), indent=4), "", _sentence(command.summary)]
    if command.description:
        lines += ["", command.description]
    arguments = command.shown_arguments()
    if arguments:
        left = [_left(a) for a in arguments]
        width = min(max(map(len, left)), 32)
        lines += ["", "arguments"]
        for argument, shown in zip(arguments, left, strict=True):
            lines += _two_columns(shown, _explained(argument), width)
    if command.takes_overrides:
        lines += ["", command.overrides_help]
    if command.examples:
        lines += ["", "examples", *(f"  {example}" for example in command.examples)]
    return lines


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _left(argument: Argument) -> str:
    return argument.usage().strip("[]")


def _explained(argument: Argument) -> str:
    if argument.needed:
        return f"{argument.help} (needed)"
    if argument.choices and argument.default is not None:  # a usage line shows any other default
        return f"{argument.help} (default {argument.default})"
    return argument.help


def _verb_lines(command: Command | CommandGroup) -> list[str]:
    if isinstance(command, CommandGroup):
        return [line for c in command.commands for line in _brief_lines(c)]
    return _brief_lines(command)


def _brief_lines(command: Command) -> list[str]:
    return _two_columns(command.usage(brief=True), command.summary, 42)


def _two_columns(left: str, right: str, width: int) -> list[str]:
    """A line, or two where both do not fit on one."""
    if len(left) <= width:
        return [f"  {left:<{width}}  {right}"]
    if len(left) + len(right) + 6 <= _WIDTH:
        return [f"  {left}    {right}"]
    return [f"  {left}", f"  {'':<{width}}  {right}"]


def _fill(words: Sequence[str], indent: int = 11) -> str:
    """The words in lines, of which all but the first are indented; two spaces apart, or one where indent is small."""
    gap = "  " if indent > 4 else " "
    lines: list[list[str]] = [[]]
    for word in words:
        if lines[-1] and indent + len(gap.join([*lines[-1], word])) > _WIDTH:
            lines.append([])
        lines[-1].append(word)
    return ("\n" + " " * indent).join(gap.join(line) for line in lines)
