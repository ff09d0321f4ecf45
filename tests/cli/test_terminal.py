"""What a terminal would obey never reaches it from a record, a delta or a file's name."""

from __future__ import annotations

import json
import shutil

import pytest

from peftbench.cli.main import main
from peftbench.common.terminal import visible
from support.mistakes import run_folder

ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e"


@pytest.fixture
def shared(finished, tmp_path):
    """A record of somebody else's, with escapes wherever text may stand."""
    shutil.copytree(finished, tmp_path / "out")
    file = run_folder(tmp_path / "out") / "result.json"
    record = json.loads(file.read_text())
    for section in ("method", "backbone", "data"):
        record["config"][section]["name"] += ESCAPE
        record["config"]["choices"][section] = record["config"][section]["name"]
    record["stamps"]["data"]["split"] += ESCAPE
    record["reason"] = ESCAPE
    record["plan"] = {"layers": [{"name": f"a{ESCAPE}.w", "kind": f"lora{ESCAPE}", "parameters": 3}], "trainable": 3}
    file.write_text(json.dumps(record))
    return file.parent


def obeyed(text):
    return sorted({c for c in text if visible(c) != c})


@pytest.mark.parametrize(
    "words",
    [
        ["report", "{out}"],
        ["report", "{out}", "format=markdown"],
        ["report", "{out}", "format=csv"],
        ["choose", "{out}"],
        ["layers", "{run}"],
        ["predict", "run={run}", "images={run}"],
        pytest.param(["evaluate", "run={run}", "data=digits"], marks=pytest.mark.slow),
    ],
)
def test_a_shared_record_prints_nothing_that_a_terminal_obeys(capsys, shared, words):
    main([word.format(out=shared.parent, run=shared) for word in words])
    told = capsys.readouterr()
    assert obeyed(told.out + told.err) == []
    if words[0] == "layers":
        assert "a␛[2J" in told.out


def test_a_record_that_is_not_complete_tells_its_reason_without_escapes(capsys, shared):
    file = shared / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "failed"}))
    assert main(["predict", f"run={shared}", f"images={shared}"]) == 2
    told = capsys.readouterr().err
    assert "is not complete but failed (␛[2J␛]0;owned␇" in told
    assert obeyed(told) == []


def test_words_and_names_of_files_are_printed_without_escapes(capsys, tmp_path):
    assert main([f"method={ESCAPE}", "backbone=vit_nano"]) == 2
    assert obeyed(capsys.readouterr().err) == []
    assert main(["report", str(tmp_path / ESCAPE)]) == 2
    assert obeyed(capsys.readouterr().err) == []


def test_plain_text_stays_what_it_is():
    assert visible("é 猫 ü\tx\n… ✓") == "é 猫 ü\tx\n… ✓"
