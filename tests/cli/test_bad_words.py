"""Words of the command line that cannot be read, match nothing or need quotes."""

from __future__ import annotations

import pytest

from peftbench.cli.main import main
from support.mistakes import files, refused


@pytest.mark.parametrize("words", [["data=glob(nothing/*)"], ["-m", "data=glob(nothing/*)"]])
def test_a_glob_that_matches_nothing_is_refused(cli, tmp_path, words):
    refused(cli(*words), "data=glob(nothing/*)", "matches none")
    assert files(tmp_path) == []


@pytest.mark.parametrize("word", ["data=glob(vtab/cif*", "data=glob(vtab/*", "data=glob()", "data=glob([a,b)"])
def test_a_glob_that_cannot_be_read_is_refused(cli, word):
    refused(cli("-m", word), word)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-m"], "-m: expected what to run in every combination, such as peftbench -m method=linear,lora"),
        (["--multirun"], "--multirun: expected what to run in every combination"),
        (["-m", "sweep.retry=true"], "-m sweep.retry=true: expected what to run in every combination"),
        (["hydra.verbose=true"], "hydra.verbose=true: expected key=value too"),
        (["--run"], "--run: expected key=value too, such as method=lora"),
        (["--resolve"], "--resolve: expected key=value too"),
        (["--config-dir", "."], "--config-dir .: expected key=value too"),
    ],
)
def test_options_alone_train_nothing(capsys, monkeypatch, tmp_path, words, part):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr()
    assert part in told.err
    assert told.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["seed=0,1", "method=full,linear", "trainer.epochs=1,2", "seed=range(3)"])
def test_several_values_without_m_are_told_to_be_a_sweep(cli, tiny, tmp_path, word):
    refused(cli(*tiny, word), word.partition("=")[0], "peftbench -m")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "word",
    [
        "logger.project='unclosed",
        'logger.project="unclosed',
        "logger.tags=[a,b",
        "data.root=range(3",
        "data .root=x",
        "backbone.args={a:1",
        "data.root=${nothing",
    ],
)
def test_a_value_that_needs_quotes_is_told_so(cli, tmp_path, word):
    told = refused(cli("method=linear", "data=folder", word), word)
    assert "quote" in told
    assert files(tmp_path) == []


def test_an_interpolation_of_a_key_that_does_not_exist_is_told(cli, tmp_path):
    refused(cli("data=folder", "data.root=${nothing}"), "nothing")
    assert files(tmp_path) == []
