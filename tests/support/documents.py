"""What documents, help texts and recipes have a reader type: commands, forms of commands, and Python.

A *block* is fenced or indented code; every line of it is typed as it stands. Code within a sentence may also be a
*form* such as `peftbench predict run=FOLDER`, which stands for several commands.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.places import ROOT

EXAMPLES = sorted((ROOT / "docs" / "contribute").glob("*.md"))
"""Pages that show files whole, and commands among them: `write_files` writes these."""
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
"""Pages that are made of an execution: their commands and their Python follow from each other."""
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *EXAMPLES, *TUTORIALS]
LIST = ROOT / "tests" / "documents" / "commands.toml"
PROGRAMS = ("peftbench", "make", "pip", "python", "bash", "wandb", "eval")
_COMMAND = re.compile(rf"(?:\w+=\S+ )*(?:\.venv/bin/)?(?:{'|'.join(PROGRAMS)})(?= \S)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n)+")


@dataclass(frozen=True)
class Typed:
    """A command: on one line without its comment, its lines as they stand, where, and the output that a page shows."""

    text: str
    lines: str
    place: str
    block: bool = True
    output: str = ""


@dataclass(frozen=True)
class Block:
    """A fenced block of a language: its text and where it begins."""

    language: str
    text: str
    place: str


def commands() -> list[Typed]:
    """Every command of the documents, the help texts and the recipes, in the order in which they stand."""
    of_pages = [c for page in DOCUMENTS for c in commands_in(page.read_text(encoding="utf-8"), page.name)]
    return [*of_pages, *_of_help(), *_of_recipes()]


def commands_in(text: str, name: str) -> list[Typed]:
    """The commands of a page of Markdown; `name` is the page's."""

    def place(position: int) -> str:
        return f"{name}:{text.count(chr(10), 0, position) + 1}"

    found: list[tuple[int, Typed]] = []
    plain = text
    for match in FENCED.finditer(text):
        if match[1] in ("", "bash", "sh"):
            found += [(match.start(), c) for c in _in_block(match[2], place(match.start(2)))]
        plain = plain.replace(match[0], "\n" * match[0].count("\n"))
    for match in _INDENTED.finditer(text):
        if match[0].strip() in plain:  # not within a fence
            found += [(match.start(), c) for c in _in_block(match[0], place(match.start()))]
            plain = plain.replace(match[0], "\n" * match[0].count("\n"))
    for match in re.finditer(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", plain, re.DOTALL):
        typed = " ".join(match[2].split())
        if _COMMAND.match(typed):
            where = f"{name}:{plain.count(chr(10), 0, match.start()) + 1}"
            found.append((match.start(), Typed(typed, typed, where, block=False)))
    return [command for _, command in sorted(found, key=lambda pair: pair[0])]


def _in_block(block: str, place: str) -> Iterator[Typed]:
    """The commands of a block, which holds nothing else; below a line that begins with `$ ` stands its output."""
    lines = [line.removeprefix("    ") for line in block.replace("\\\n", "\\\0").splitlines()]
    prompted = any(line.startswith("$ ") for line in lines)
    if not prompted and not (lines and _COMMAND.match(lines[0])):
        return
    for at, line in enumerate(lines):
        if not line.strip() or (prompted and not line.startswith("$ ")):
            continue
        raw = line.removeprefix("$ ").replace("\\\0", "\\\n")
        text = " ".join(re.sub(r"\s#\s.*", "", raw.replace("\\\n", " ")).split())
        below = list(lines[at + 1 :]) if prompted else []
        yield Typed(text, raw, place, output="\n".join(below))


def _of_help() -> Iterator[Typed]:
    """The examples of `peftbench --help` and of every verb's."""
    from peftbench.cli.arguments import CommandGroup
    from peftbench.cli.main import main
    from peftbench.cli.verbs import VERBS, command_of

    asked = [[]]
    for command in map(command_of, VERBS):
        asked += [c.name.split() for c in (command.commands if isinstance(command, CommandGroup) else [command])]
    for words in asked:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            assert main([*words, "--help"]) == 0
        _, _, examples = told.getvalue().partition("\nexamples\n")
        for line in examples.partition("\n\n")[0].splitlines():
            yield Typed(line.strip(), line.strip(), " ".join(["peftbench", *words, "--help"]))


def _of_recipes() -> Iterator[Typed]:
    """The commands that the recipes name in their heads."""
    for file in sorted((ROOT / "configs" / "experiment").glob("*.yaml")):
        for typed in re.findall(r"^# command: +(.+?)(?:  |$)", file.read_text(encoding="utf-8"), re.MULTILINE):
            yield Typed(typed, typed, f"configs/experiment/{file.name}", block="<" not in typed)


def blocks(language: str) -> list[Block]:
    """The fenced blocks of a language in all documents."""
    pages = [(page, page.read_text(encoding="utf-8")) for page in DOCUMENTS]
    return [
        Block(language, match[2], f"{page.name}:{text.count(chr(10), 0, match.start(2)) + 1}")
        for page, text in pages
        for match in FENCED.finditer(text)
        if match[1] == language
    ]


def write_files(page: Path, folder: Path) -> list[Path]:
    """Writes the files that a page shows whole, each in a block below its name such as `DIR/data/mine.yaml`."""
    shown = re.findall(r"^`(DIR/\S+)`\n\n```\w+\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    for name, text in shown:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name, _ in shown]


def listed() -> dict:
    """The committed list: how each command is run."""
    return tomllib.loads(LIST.read_text(encoding="utf-8"))


def words_of(lines: Sequence[str], folder: Path) -> list[list[list[str]]]:
    """The programs that bash starts for each of the command lines, with their words, as bash splits and expands them.

    Nothing is carried out: what bash starts are stand-ins that note their words down. The home is `<folder>/home`.
    """
    bash = shutil.which("bash")
    assert bash, "the documents' commands are bash's"
    here, programs = folder / "here", folder / "programs"
    for place in (folder / "home", here / ".venv/bin", programs):
        place.mkdir(parents=True)
    noter = programs / "noter"
    noter.write_text('#!/bin/sh\n{ printf "%s\\0" "${0##*/}" "$@"; printf "\\0"; } >> "$NOTED"\n')
    noter.chmod(0o755)
    for name in PROGRAMS:
        if name != "eval":
            (programs / name).symlink_to(noter)
    (here / ".venv/bin/python").symlink_to(noter)
    script = [f"NOTED={folder}/noted.{i}\nexport NOTED\n{line}\n" for i, line in enumerate(lines)]
    environment = {**os.environ, "HOME": str(folder / "home"), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    environment["RUN"] = "outputs/RUN"  # which the Python of a tutorial sets
    done = subprocess.run(
        [bash], input="".join(script), cwd=here, env=environment, capture_output=True, text=True, timeout=60
    )
    assert not done.stderr, done.stderr
    return [_noted(folder / f"noted.{i}") for i in range(len(lines))]


def _noted(file: Path) -> list[list[str]]:
    """Of each program its name and its words: an empty word ends them."""
    if not file.exists():
        return []
    return [part.split("\0") for part in file.read_text(encoding="utf-8").removesuffix("\0\0").split("\0\0")]


def found_in(given: list[str]) -> list[str]:
    """The word by which composing finds the YAMLs of the folder that `--config-dir` names, if any."""
    from peftbench.common.config_files import CONFIGS, roots

    folders = [folder for folder in roots(given) if folder != CONFIGS]
    return [f'hydra.searchpath=["file://{folders[0].absolute().as_posix()}"]'] if folders else []


def jobs(given: list[str]) -> Iterator[list[str]]:
    """The words of a run, or of the first and the last job of a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    from peftbench.cli.hydra_options import separate
    from peftbench.common.config_files import roots
    from peftbench.config.overrides import prepare

    options, plain = separate(given)
    plain += found_in(given)
    sweep = bool({"-m", "--multirun"} & set(options))
    overrides = OverridesParser.create().parse_overrides(prepare(plain, roots(given), sweep))
    for end in [0, -1] if sweep else [0]:
        job = []
        for override in overrides:
            value = override.value()
            if isinstance(value, ChoiceSweep | RangeSweep):
                job.append(f"{override.key_or_group}={list(override.sweep_string_iterator())[end]}")
            elif isinstance(value, IntervalSweep):
                job.append(f"{override.key_or_group}={(value.start, value.end)[end]}")
            else:
                job.append(str(override.input_line))
        yield job
