"""Every command of the documents and help texts: it is listed, bash reads it as it should, and its words are right.

`commands.toml` says how each is run; `test_as_typed.py` carries out what can be.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import peftbench
from support.documents import (
    DOCUMENTS,
    EXAMPLES,
    FENCED,
    PROGRAMS,
    commands,
    commands_in,
    found_in,
    jobs,
    listed,
    words_of,
    write_files,
)
from support.places import ROOT

LISTED = listed()
ONES = [*LISTED["as_typed"], *LISTED["elsewhere"], *LISTED["short"], *LISTED["planned"], *LISTED["by_their_page"]]
FORMS = LISTED["forms"]
STAND_FOR_FORMS = dict.fromkeys(one for some in FORMS.values() for one in some)
RUNNABLE = list(dict.fromkeys([*ONES, *STAND_FOR_FORMS]))


def test_every_command_of_the_documents_is_listed():
    unlisted = [f"{c.place}: {c.text}" for c in commands() if c.text not in ONES and c.text not in FORMS]
    assert not unlisted, "tests/documents/commands.toml does not say how these are run:\n" + "\n".join(unlisted)


def test_what_is_listed_stands_in_a_document():
    typed = {c.text for c in commands()}
    gone = [one for one in [*ONES, *FORMS] if one not in typed and one not in STAND_FOR_FORMS]
    gone += [one for one in LISTED["status"] if one not in RUNNABLE]
    assert not gone, "no document has these any more; take them out of tests/documents/commands.toml:\n" + "\n".join(
        gone
    )


def test_no_command_is_listed_twice():
    twice = {one for one in [*ONES, *FORMS] if [*ONES, *FORMS].count(one) > 1}
    assert not twice, twice


def test_what_stands_in_a_block_can_be_typed():
    """No `<name>`, `…` or [option], which bash takes for something else, but where another shell's line is listed."""
    forms = [c for c in commands() if c.block and re.search(r"<\w|…|\s\[\w+=", c.text)]
    assert not forms, forms
    assert [c.text for c in commands() if c.block and c.text in FORMS and "completion" not in c.text] == []


def test_no_block_hides_a_command():
    """A block whose first line is no command is taken for something else, such as a table: it holds none then."""
    begun = re.compile(rf"(?:^|[;&|(] *)(?:{'|'.join(PROGRAMS)}) \S", re.MULTILINE)
    for page in DOCUMENTS:
        text = page.read_text(encoding="utf-8")
        for block in FENCED.finditer(text):
            if block[1] in ("", "bash", "sh") and begun.search(block[2]):
                assert commands_in(block[0] + "\n", page.name), f"{page.name}: no command is read in\n{block[0]}"


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_one_of_what_it_stands_for(form):
    for one in FORMS[form]:
        assert re.match(_pattern(form), one), f"{one!r} is not of the form {form!r}"


def _pattern(form: str) -> str:
    """A regular expression of the commands that a form stands for; other words may follow."""
    form = re.search(r"\$\((.+)\)", form)[1] if form.startswith("eval") else form.partition(" | ")[0]
    pattern = re.escape(form).replace("…", ".+").replace(r"\|", "|")
    pattern = re.sub(r"\\ \\\[.*?\\\]", ".*", pattern)  # [may be left out]
    pattern = re.sub(r"<\w+>|\b[A-Z_]{3,}(?:\|[A-Z]+)*", r"\\S+", pattern)
    return re.sub(r"\b\w+(?:\|\w+)+", lambda several: f"(?:{several[0]})", pattern)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> dict[str, list[list[str]]]:
    """The programs and words that bash makes of the lines of each command."""
    lines = {one: one for one in RUNNABLE} | {c.text: c.lines for c in commands() if c.text in RUNNABLE}
    return dict(zip(lines, words_of(list(lines.values()), tmp_path_factory.mktemp("bash")), strict=True))


@pytest.mark.parametrize("one", RUNNABLE)
def test_its_words_are_right(one, words, monkeypatch, tmp_path):
    for page in (ROOT / "CONTRIBUTING.md", *EXAMPLES):
        write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "DIR")
    assert words[one], "bash starts no program"
    for name, *given in words[one]:
        _CHECKS[name](given)


def _check_peftbench(given: list[str]) -> None:
    """The words of a run compose, those of a verb are what it takes."""
    from peftbench.cli.arguments import CommandGroup
    from peftbench.cli.parser import parse
    from peftbench.cli.verbs import VERBS, command_of, split_verb

    verb, rest = split_verb(given)
    if "--help" in given:
        return
    if verb not in VERBS:
        for job in jobs(given):
            peftbench.compose(*job)
        return
    command = command_of(verb)
    if isinstance(command, CommandGroup):
        command, rest = command.choose(rest)
    overrides = parse(command, rest).overrides
    if overrides:
        peftbench.compose(*overrides, *found_in(given))


def _check_make(given: list[str]) -> None:
    done = subprocess.run(["make", "-n", *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _check_pip(given: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    verb, requirement = given
    name, _, extras = requirement.rstrip("]").partition("[")
    assert verb == "install"
    assert name in (".", project["name"])
    assert {extra for extra in extras.split(",") if extra} <= set(project["optional-dependencies"])


def _check_python(given: list[str]) -> None:
    """A script is there and its own parser takes its words; a module is there; a file that a page shows is written."""
    if given[0].startswith("DIR/"):
        assert Path(given[0]).is_file()
        return
    if given[0] == "-m":
        assert importlib.util.find_spec(given[1])
        return
    script = ROOT / given[0]
    script = script / "__main__.py" if script.is_dir() else script
    options = {word.partition("=")[0] for word in given[1:] if word.startswith("--")}
    assert options <= set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", script.read_text(encoding="utf-8")))


def _check_bash(given: list[str]) -> None:
    assert subprocess.run(["bash", "-n", ROOT / given[0]]).returncode == 0


def _check_wandb(given: list[str]) -> None:
    assert given[0] == "sync"


_CHECKS = {
    "peftbench": _check_peftbench,
    "make": _check_make,
    "pip": _check_pip,
    "python": _check_python,
    "bash": _check_bash,
    "wandb": _check_wandb,
}


def test_the_home_is_what_bash_and_we_expand(words, tmp_path_factory):
    """bash expands `images=~/photos`, and leaves `data.root=~/photos` to peftbench."""
    predict = words["peftbench predict run=outputs/RUN images=~/photos out=labels.csv"][0]
    assert next(word for word in predict if word.startswith("images=")).endswith("/home/photos")
    assert not any("~" in word for word in predict)


PAGE = """\
A sentence with `peftbench list methods` in it, `peftbench[onnx]`, ``make test``, `peftbench.load` and `peftbench
--help`.

```
peftbench method=lora \\
    data=digits        # a comment
OMP_NUM_THREADS=1 make test
```

```
 a    table
```

```python
peftbench.run()
```

    peftbench share a   b
    x = 1

```
$ peftbench data check
wrong  cifar
```
"""


def test_commands_are_found_in_markdown():
    found = commands_in(PAGE, "PAGE.md")
    assert [(c.text, c.block) for c in found] == [
        ("peftbench list methods", False),
        ("make test", False),
        ("peftbench --help", False),
        ("peftbench method=lora data=digits", True),
        ("OMP_NUM_THREADS=1 make test", True),
        ("peftbench share a b", True),
        ("x = 1", True),
        ("peftbench data check", True),
    ]
    assert found[3].lines == "peftbench method=lora \\\n    data=digits        # a comment"
    assert found[-1].output == "wrong  cifar"
