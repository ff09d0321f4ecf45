"""Records of others, and damaged ones: one schema, by which every verb says in one sentence what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from support.reports import call, record, write

HUGE = 10**400
DAMAGED = {
    "metrics": ({"metrics": [1]}, "its metrics is a list, and a mapping is expected"),
    "a metric": ({"metrics__test/accuracy": "high"}, "its metrics.test/accuracy is 'high', and a number is expected"),
    "beyond a float": ({"metrics__test/accuracy": HUGE}, "metrics.test/accuracy is a number of 401 digits"),
    "truth": ({"costs__time__train": True}, "its costs.time.train is a truth value, and a number is expected"),
    "costs": ({"costs__memory": 3}, "its costs.memory is a number, and a mapping is expected"),
    "peak": ({"costs__memory__peak": "much"}, "its costs.memory.peak is 'much', and a mapping is expected"),
    "taps": ({"costs__taps": {"mode": 3}}, "its costs.taps.mode is a number, and a string is expected"),
    "stamps": ({"stamps__backbone": "vit"}, "its stamps.backbone is 'vit', and a mapping is expected"),
    "plan": ({"plan": "x"}, "its plan is 'x', and a mapping is expected"),
    "sequence": ({"stamps__continual": [1]}, "its stamps.continual is a list, and a mapping is expected"),
    "layers": ({"plan": {"layers": [{"name": "a", "kind": "b"}]}}, "has no plan.layers.0.parameters"),
    "rows": ({"plan": {"layers": ["a"]}}, "its plan.layers.0 is 'a', and a mapping is expected"),
    "history": ({"history": [1]}, "its history.0 is a number, and a mapping is expected"),
    "status": ({"status": "done"}, "its status is 'done', and one of running, complete,"),
    "method": ({"config__method": {}}, "it has no config.method.name"),
    "processes": ({"config__trainer__devices": "two"}, "its config.trainer.devices is 'two', and a whole number"),
    "seed": ({"config__seed": [1]}, "its config.seed is a list, and a whole number is expected"),
}


def damaged(folder: Path, changes: dict) -> Path:
    """A folder of two runs, of which the second has a record that is changed so."""
    write(folder, record("lora"), record("spt", **changes) | {"id": "bad"})
    return folder / "bad"


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_record_is_named_and_the_report_is_of_the_others(tmp_path, what):
    changes, told = DAMAGED[what]
    run = damaged(tmp_path, changes)
    status, out, err = call("report", tmp_path, "format=csv")
    assert (status, err, out.count("\n")) == (0, "", 2)
    assert told in " ".join(call("report", tmp_path, "format=markdown")[1].split())
    for words in (("layers", run), ("predict", f"run={run}", "images=x.png"), ("report", f"run={run}")):
        status, _, err = call(*words)
        assert status == 2, words
        assert err.startswith(f"peftbench: {run}/result.json: is not a ")
        assert (told in err, err.count("\n")) == (True, 1), err


def test_fields_that_early_records_lack_may_be_left_out_or_null(tmp_path):
    bare = {"id": "early", "status": "complete", "schema": 1, "config": record("lora")["config"]}
    empty = dict.fromkeys(("reason", "stamps", "metrics", "costs", "history", "plan"))
    write(tmp_path, bare, bare | empty | {"id": "null"}, record("bitfit"), record("spt", costs__memory=None))
    assert call("report", tmp_path)[::2] == (0, "")
    for run in ("early", "null"):
        assert "method=lora has no plan" in call("layers", tmp_path / run)[2]
        assert "its stamps have no backbone" in call("export", f"run={tmp_path / run}", "format=onnx")[2]


def in_the_place_of_the_file(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("dangling link", "is a link to a file that is not there"),
        ("folder", "is no regular file"),
        ("pipe", "is no regular file"),
        ("link to itself", "cannot be read (Too many levels of symbolic links)"),
    ],
)
def test_what_is_no_file_is_told_and_never_waited_for(tmp_path, kind, told):
    run = damaged(tmp_path, {})
    in_the_place_of_the_file(run / "result.json", kind)
    status, out, _ = call("report", tmp_path, "format=markdown")
    assert status == 0
    assert told in out or kind == "folder"  # a report looks for files
    for words in (("layers", run), ("predict", f"run={run}", "images=x.png")):
        status, _, err = call(*words)
        assert (status, told in err, err.count("\n")) == (2, True, 1), err


def test_a_key_too_many_is_passed_over_and_the_run_goes_on_being_used(cli, tiny, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.glob("*/result.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"folder": "elsewhere", "was_there": 3, "notes": [1]}))
    status, out, err = cli(*tiny, "method=linear")
    assert status == 0, err
    assert f"record, delta and config: {path.parent}" in out
    path.write_text(json.dumps(content | {"costs": content["costs"] | {"flops": "many"}}))
    status, _, err = cli(*tiny, "method=linear")
    assert status == 2
    assert (
        "its costs.flops is 'many', and a number is expected; remove it, or give force=true, to run this again." in err
    )
