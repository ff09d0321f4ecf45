"""Plain text that Hydra's grammar has no place for is quoted; what Hydra reads means what it always did."""

from __future__ import annotations

from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench
from peftbench.cli.main import main
from peftbench.config.plain_text import quoted
from support.datasets import class_folders
from support.mistakes import files, record, refused, run_folder
from support.reports import call

HYDRA = OverridesParser.create()
PATHS = [
    "./~mine/photos",
    "/a~b/it's",
    "photos (1)",
    "/photos/(old",
    "C:\\Users\\Zoë\\photos (2)\\",
    "run=3/lr=1e-3",
    "a@b%c#d&e;f!g",
    "[2023] summer",
    "a[0]/b{1}",
    "フォト/été",
    'say "cheese"',
    "a\\'b",
    "${seed}/été",
    "tab\there ~ and\nthere",
]
VALUES = st.lists(
    st.one_of(
        st.sampled_from(
            ["~/", "'", '"', "\\", "[", "]", "(", ")", "{", "}", ",", "=", ":", " ", "${seed}", "range(", "é"]
        ),
        st.sampled_from(
            ["choice(1,2)", "[a,b]", "'q,q'", "{a:1}", "null", "true", "1e3", "-7", "a", "b_1", "./x", "*"]
        ),
        st.text(st.characters(exclude_characters="~"), max_size=2),
    ),
    max_size=5,
).map("".join)


def read(word: str) -> object:
    """What Hydra reads; its error where it refuses the word."""
    try:
        return HYDRA.parse_override(word)
    except HydraException as problem:
        return problem


@settings(max_examples=80, deadline=None)
@given(value=VALUES, key=st.sampled_from(["data.root", "+x.y", "++x", "~x", "logger.tags"]), sweep=st.booleans())
def test_what_hydra_reads_is_handed_on_as_it_is_and_quotes_make_the_rest_readable(value, key, sweep):
    word = f"{key}={value}"
    if not isinstance(read(word), HydraException):
        assert quoted(word, sweep) == word
    else:
        assert quoted(word, sweep) == word or not isinstance(read(quoted(word, sweep)), HydraException)


@settings(max_examples=80, deadline=None)
@given(value=st.text(st.characters(exclude_characters=",'\"[{$(", exclude_categories=("Cs",)), min_size=1))
def test_plain_text_that_hydra_refuses_becomes_that_very_text(value):
    word = f"data.root={value}"
    if isinstance(read(word), HydraException) and not value.startswith("~"):
        assert read(quoted(word)).value() == value
        assert read(quoted(word, sweep=True)).value() == value


def test_paths_reach_the_config_as_they_were_typed():
    keys = ["data.root", "data.labels", "data.group", "backbone.weights", "taps.dir", "logger.project", "logger.group"]
    for paths in (PATHS[: len(keys)], PATHS[len(keys) :]):
        given = dict(zip(keys, paths, strict=True))
        words = [f"{key}={path}" for key, path in given.items()]
        members = [path for path in paths if path.count("(") == path.count(")")]
        config = peftbench.compose("data=folder", "logger=wandb", *words, f"logger.tags=[{','.join(members)}]")
        values = config.to_dict()
        values["data"] |= values["data"]["options"]
        values["logger"] = values["logger"]["wandb"]  # whose keys stood in the section itself once
        reached = [values[section][name] for section, name in (key.split(".") for key in keys)]
        assert reached == [path.replace("${seed}", "0") for path in paths]
        assert values["logger"]["tags"] == [path.replace("${seed}", "0") for path in members]


def test_a_tilde_at_the_start_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a,b (1)").mkdir()
    words = ["data.root=~/a,b (1)", "data.labels=~", "data.ood=[~/more]", "output_dir='~/runs'"]
    config = peftbench.compose("data=folder", *words)
    places = [config.data.options["root"], config.data.options["labels"], *config.data.ood, config.output_dir]
    assert [Path(place) for place in places] == [tmp_path / name for name in ("a,b (1)", "", "more", "runs")]
    assert peftbench.compose("data=folder", "data.root='~/photos'").data.options["root"] == "~/photos"


def test_the_home_of_nobody_is_told(cli, tiny, tmp_path):
    words = [*tiny, "method=linear", "data=folder"]
    told = refused(cli(*words, "data.root=~nobody-here/x"), "data.root=~nobody-here/x: there is no user 'nobody-here'")
    assert "your own is ~/" in told
    refused(cli(*words, "data.root='~nobody-here/x'"), "data.root=~nobody-here/x: there is no folder")
    refused(call("report", "~nobody-here"), "peftbench: ~nobody-here: there is no user 'nobody-here'")
    refused(cli("--config-dir=~nobody-here", *words), "~nobody-here: there is no user")
    assert files(tmp_path) == []


def test_a_comma_parts_values_unless_it_is_in_the_name_of_what_is_there(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told = refused(cli("data=folder", "data.root=a,b"), "data.root: several values make a sweep", "-m")
    assert "\"data.root='a,b'\"" in told
    assert cli("data=folder", "data.root=~/a,~/b")[2] == told
    assert quoted("data.root=é,a~b", sweep=True) == "data.root='é','a~b'"
    (tmp_path / "a,b").mkdir()
    assert peftbench.compose("data=folder", "data.root=a,b").data.options["root"] == "a,b"
    assert quoted("data.root=a,b", sweep=True) == "data.root=a,b"


def test_a_run_and_a_sweep_find_a_folder_in_the_home(capsys, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    class_folders(tmp_path / "my photos (é)", {"cat": 5, "dog": 5})
    words = [*tiny, "method=linear", "data=folder", "data.root=~/my photos (é)"]
    assert main([*words, "output_dir='~/runs'"]) == 0
    assert record(tmp_path / "runs")["config"]["data"]["options"]["root"] == str(tmp_path / "my photos (é)")
    done = run_folder(tmp_path / "runs")
    capsys.readouterr()
    assert main(["-m", *words, "output_dir='~/runs'"]) == 0  # the same run, found again
    assert str(done) in capsys.readouterr().out
    assert (tmp_path / "runs" / ".sweeps").is_dir()
    assert not Path("~").exists()


def test_a_tilde_in_the_words_of_any_verb_is_the_home(capsys, finished, monkeypatch, tmp_path):
    (done,) = (path.parent for path in finished.glob("*/result.json"))
    monkeypatch.setenv("HOME", str(finished))
    monkeypatch.setenv("USERPROFILE", str(finished))
    run = f"~/{done.name}"
    assert main(["report", "~"]) == 0
    assert main(["layers", run]) == 2
    assert "there is no result.json" not in capsys.readouterr().err
    assert main(["predict", f"run={run}", f"--images={tmp_path}"]) == 2
    assert f"images={tmp_path}: holds no image" in capsys.readouterr().err
    assert main(["--config-dir=~", "list", "methods"]) == 0
    assert main(["--config-dir=~", "--cfg", "job"]) == 0
    assert files(tmp_path) == []
