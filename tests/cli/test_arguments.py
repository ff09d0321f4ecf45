"""Words of the verbs mean the same everywhere, and what is wrong with them is one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from peftbench.cli.arguments import Argument, Command
from peftbench.cli.main import main
from peftbench.cli.parser import parse
from peftbench.cli.verbs import VERBS, command_of
from peftbench.common.errors import UserError


def commands() -> list[Command]:
    """Every command of every verb."""
    declared = [command_of(verb) for verb in VERBS]
    return [c for entry in declared for c in ([entry] if isinstance(entry, Command) else entry.commands)]


TOY = Command(
    "toy",
    "a toy",
    lambda words: 0,
    (
        Argument("kind", "a place", place=True, choices=("one", "two")),
        Argument("rest", "other places", place=True, several=True),
        Argument("batch_size", "a number", kind="whole number", default=3),
        Argument("rate", "a number", kind="number"),
        Argument("out", "a file", kind="file"),
        Argument("form", "a choice", choices=("csv", "json"), default="csv"),
        Argument("dry_run", "a flag", kind="flag", default=False),
        Argument("config_dir", "a folder", kind="folder", short="-cd"),
    ),
    expected="one or two, and more",
)


@pytest.mark.parametrize(
    "words",
    [
        ["batch_size=5", "out=x y", "dry_run=true", "config_dir=d"],
        ["--batch-size=5", "--out=x y", "--dry-run", "--config-dir=d"],
        ["--batch-size", "5", "--out", "x y", "--dry-run", "true", "--config-dir", "d"],
        ["batch-size=5", "--out", "x y", "--dry_run=TRUE", "-cd", "d"],
    ],
)
def test_a_word_means_the_same_in_every_form(words):
    read = parse(TOY, words)
    assert [read[k] for k in ("batch_size", "out", "dry_run", "config_dir")] == [5, "x y", True, "d"]
    assert (read["form"], read["rate"], read["rest"]) == ("csv", None, [])
    assert set(read.written) == {"batch_size", "out", "dry_run", "config_dir"}


def test_plain_words_are_places_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    read = parse(TOY, ["--rate", "1e-3", "two", "x", "out=o", "a=b", "--", "--y", "z=1"])
    assert (read["kind"], read["rest"], read["rate"]) == ("two", ["x", "a=b", "--y", "z=1"], 1e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["bach_size=5"],
            "toy bach_size=5: there is no such option (did you mean 'batch_size'?); see peftbench toy --help.",
        ),
        (["--dry"], "toy --dry: there is no such option (did you mean 'dry_run'?); see peftbench toy --help."),
        (["-x"], "toy -x: there is no such option; see peftbench toy --help."),
        (["a=c"], "toy a=c: there is no such option; see peftbench toy --help."),
        (["batch_size=x"], "batch_size=x: expected a whole number."),
        (["batch_size=1.5"], "batch_size=1.5: expected a whole number."),
        (["rate=x"], "rate=x: expected a number."),
        (["dry_run=maybe"], "dry_run=maybe: expected true or false."),
        (["form=jsn"], "form=jsn: expected csv or json (did you mean 'json'?)."),
        (["out="], "toy out=: needs a value, such as out=FILE; see peftbench toy --help."),
        (["--out"], "toy --out: needs a value, such as out=FILE; see peftbench toy --help."),
        (["--out", "--dry-run"], "toy --out: needs a value, such as out=FILE; see peftbench toy --help."),
        (["tow"], "toy tow: expected one or two, and more (did you mean 'two'?); see peftbench toy --help."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(words, sentence):
    with pytest.raises(UserError) as mistake:
        parse(TOY, words)
    assert str(mistake.value) == sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["list", "optimisers"], "list optimisers: expected methods, backbones or data; see peftbench list --help."),
        (["list"], "list: expected methods, backbones or data; see peftbench list --help."),
        (["list", "method", "x"], "list x: expected methods, backbones or data; see peftbench list --help."),
        (["predict"], "predict: needs run=FOLDER; see peftbench predict --help."),
        (
            ["predict", "run"],
            "predict run: there is no such option (did you mean 'run'?); see peftbench predict --help.",
        ),
        (["share"], "share: expected folders of finished runs of one backbone; see peftbench share --help."),
        (["taps", "lst"], "taps lst: there is no such command (did you mean 'list'?); expected list or clear; see"),
        (["data"], "data: expected prepare, check, sources or convert; see peftbench data --help."),
        (["plan", "--jsn"], "plan --jsn: there is no such option (did you mean 'json'?); see peftbench plan --help."),
        (["plan", "lora"], "'lora': expected key=value, such as method=lora."),
        (["plan", "--config-dir", "/nowhere"], "/nowhere: there is no such folder of configs."),
        (["list", "methods", "config_dir=/nowhere"], "/nowhere: there is no such folder of configs."),
        (["--seed=1"], "--seed=1: a run takes its keys without dashes; give seed=1."),
        (
            ["--optimizer.lr=1", "method=lora"],
            "--optimizer.lr=1: a run takes its keys without dashes; give optimizer.lr=1.",
        ),
        (["completion", "tcsh"], "completion tcsh: expected bash, zsh or fish; see"),
        (["lst"], "'lst': there is no such command (did you mean 'list'?)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_at_a_verb_is_one_sentence(capsys, words, sentence):
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"peftbench: {sentence}")
    assert told.err.count("\n") == 1


def test_config_dir_brings_a_method_to_every_verb_that_composes(capsys, tmp_path):
    folder = tmp_path / "my own configs"
    (folder / "method").mkdir(parents=True)
    (folder / "method" / "mine.yaml").write_text(
        "# A probe of my own\nname: mine\npath: peftbench.methods.linear.Linear\nlr: 1.0e-3\n"
    )
    for words in (["--config-dir", str(folder), "list", "methods"], ["list", "methods", "-cd", str(folder)]):
        assert main(words) == 0
        assert "A probe of my own" in capsys.readouterr().out
    words = ["--data=digits", "backbone=vit_nano", "method=mine", f"--config-dir={folder}", "--json"]
    assert main(["plan", *words]) == 0, capsys.readouterr().err
    assert '"parameters"' in capsys.readouterr().out


def test_the_package_is_a_program():
    done = subprocess.run([sys.executable, "-m", "peftbench", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("peftbench ")


# -- help


@pytest.mark.parametrize("command", commands(), ids=lambda c: c.name)
def test_help_of_a_command_names_all_that_it_takes(capsys, command):
    assert main([*command.name.split(), "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"peftbench {command.name}")
    for argument in command.all_arguments():
        shown = argument.usage().strip("[]")
        assert (shown in told) != argument.hidden
        assert (argument.help in told) != argument.hidden
    assert all(len(line) <= 140 for line in told.splitlines())
    assert all(example.startswith(("peftbench", "eval")) and example in told for example in command.examples)


def test_help_names_every_verb_and_what_may_be_chosen(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for command in commands():
        assert f"peftbench {command.name}" in told
        assert command.summary in told
    assert "vtab/<19 tasks>" in told
    assert main(["help", "predict"]) == 0
    assert capsys.readouterr().out.startswith("peftbench predict run=FOLDER images=")
    assert main(["data", "--help"]) == 0
    assert "peftbench data convert voc ROOT out=DIR" in capsys.readouterr().out


def test_the_choices_of_the_tables_are_those_of_what_they_call():
    from peftbench.data.vtab.verify import STAGES
    from peftbench.tuned.export import FORMATS

    choices = {(c.name, a.name): a.choices for c in commands() for a in c.arguments}
    assert set(choices["export", "format"]) == set(FORMATS)
    assert set(choices["data check", "stage"]) == set(STAGES)


def test_an_example_is_read_by_its_own_table():
    for command in commands():
        for example in command.examples:
            words = example.replace("run id", "run-id").replace("'", "").split()
            if words[0] == "peftbench" and "|" not in words:
                parse(command, words[1 + len(command.name.split()) :])
