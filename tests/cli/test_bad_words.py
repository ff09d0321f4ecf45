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
    refused(cli("data=folder", "data.root=${nothing}"), "data.root: refers by ${…} to the key 'nothing', which")
    assert files(tmp_path) == []


@pytest.mark.parametrize("word", ["=3", "+=3", "++=3", "@=3", "~=3", "~", "=method"])
@pytest.mark.parametrize("verb", [[], ["plan"], ["-m"]])
def test_a_word_without_a_key_is_refused(cli, tmp_path, verb, word):
    refused(cli(*verb, word), f"'{word}': names no key; expected key=value")
    assert files(tmp_path) == []


@pytest.mark.parametrize("word", ["hydra/launcher=3", "method@x=3", "+method@x=true", "~hydra/launcher=3"])
def test_a_number_in_the_place_of_a_name_is_refused(cli, word):
    refused(cli("data=digits", word), f"{word}: expected the name of a ")


@pytest.mark.parametrize("word", ["~method", "~method=linear", "~optimizer", "method=null"])
def test_a_section_that_is_taken_away_is_refused_by_its_name(cli, tmp_path, word):
    group = word.strip("~").partition("=")[0]
    refused(
        cli("data=digits", word),
        f"{word}: a run needs a",
        f" {group}; there are ",
        "linear" if group == "method" else "sgd",
    )
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("protocol=null", "null is no protocol; give one of continual, none, vtab1k."),
        ("method@protocol.told_by=null", ", wise_ft, or protocol.told_by=null."),
    ],
)
def test_null_in_the_place_of_a_yaml_is_answered_with_what_to_give(cli, tmp_path, word, said):
    refused(cli("-m", "data=digits", "protocol=continual", word), f"{word}: null is no ", said)
    assert files(tmp_path) == []


@pytest.mark.parametrize("below", ["", "/runs"])
def test_a_file_in_the_place_of_the_folder_of_runs_is_told(cli, tiny, tmp_path, below):
    file = tmp_path / "runs.txt"
    file.write_text("mine")
    refused(cli(*tiny, f"output_dir={file}{below}"), f"output_dir: {file}", "cannot be written: it is a file")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cfg", "jbo"], "--cfg jbo: expected job, hydra or all (did you mean 'job'?)."),
        (["-c=jbo"], "-c jbo: expected job, hydra or all (did you mean 'job'?)."),
        (["--info", "method=linear"], "--info method=linear: expected all, config, "),
        (["method=linear", "--cfg"], "--cfg: needs a value; see peftbench --help."),
        (["-m", "method=linear", "hydra.sweeper.trials=3"], "hydra.sweeper.trials: there is no such key; see"),
        (["predict", "outputs/RUN", "photos"], "takes no such word; give run=outputs/RUN images=photos; see"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_word_that_is_almost_right_is_told_in_one_sentence(capsys, monkeypatch, tmp_path, words, sentence):
    monkeypatch.chdir(tmp_path)
    status = main(words)
    refused((status, *capsys.readouterr()), sentence)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("data.ood.x=[1,2]", "data.ood.x=[1,2]: cannot be composed"),
        ("seed=" + "9" * 5000, "holds a number of 5,000 digits"),
        ("data.size=" + "[" * 300 + "]" * 300, "is nested 300 levels deep"),
        ("taps=[1,2]", "taps"),
        ("hydra/launcher=2", "hydra/launcher=2"),
        ("hydra.launcher=3", "is a section; one is chosen as hydra/launcher=…"),
        ("=\n", "'=␊': names no key"),
        ("hydra.verbose=3", "hydra.verbose=3: cannot be composed"),
        ("backbone.cfg.input_size=1_000", "backbone.cfg"),
        ("backbone.cfg.mean=*", "backbone.cfg"),
        ("++task.name.x=3", "task.name"),
        ("~method@a=0", "method@a"),
        ("~method", "method"),
        ("-m=3", "--multirun takes no value"),
        ("data.root=" + "x" * 9000, "…"),
        ("output_dir=" + "x" * 9000, "…"),
        ("trainer.epochs=[" + ",".join(["1"] * 900) + "]", "…"),
    ],
)
def test_words_that_hydra_ends_at_are_told_in_a_sentence_that_can_be_read(cli, tiny, tmp_path, word, part):
    told = refused(cli(*tiny, "method=lora", word), part)
    assert len(told) < 2100
    assert files(tmp_path) == []
