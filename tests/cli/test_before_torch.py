"""Mistakes that need no torch are told before it is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.mistakes import pictures

ASK = """
import contextlib, io, json, sys
from peftbench.cli.main import main
answers = []
for words in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    answers.append([status, told.getvalue(), 'torch' in sys.modules])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(finished, tmp_path_factory):
    """By its words, what each command answered, and whether torch was imported by then: one process for all of them."""
    place = tmp_path_factory.mktemp("place")
    photos = pictures(place / "photos", {"cat": 3, "dog": 3})
    rows = place / "rows.csv"
    rows.write_text("file,class\ncat/0.png,cat\n")
    (place / "one").mkdir()
    (run,) = (path.parent for path in finished.glob("*/result.json"))
    (place / "there.onnx").write_text("mine")
    mistakes = {
        ("method=lora", "method.rank=0"): "method.rank=0: expected at least 1.",
        ("method=spt_lora", "method.dropout=1"): "method.dropout=1.0: expected a share, at least 0 and below 1.",
        ("data=folder", "data.root=/nowhere"): "data.root=/nowhere: there is no folder /nowhere",
        (
            "data=folder",
            f"data.root={photos}",
            f"data.labels={place / 'rows.csv'}",
        ): f"{place / 'rows.csv'}: expected the columns",
        ("data=folder", f"data.root={place / 'one'}"): f"{place / 'one'}: holds no class folders",
        ("data=digits", "backbone.weights=/nowhere"): "backbone.weights=/nowhere: there is no such file",
        ("data=vtab/cifar", f"data.root={place}"): "data=vtab/cifar: ",
        ("data=coco", f"data.root={place}"): f"data.root={place}: annotations/",
        ("predict", f"run={place}", f"images={photos}"): f"run={place}: holds no result.json",
        ("predict", f"run={run}", "images=/nowhere"): "images=/nowhere: there is no such file or folder",
        ("predict", f"run={run}", f"images={place / 'one'}"): f"images={place / 'one'}: holds no image",
        ("predict", f"run={run}", f"images={photos}", "draw=x"): "draw=x: is not for a run of task=classification",
        ("export", f"run={place}", "format=onnx"): f"run={place}: holds no result.json",
        ("export", f"run={run}", "format=tflite"): "format=tflite: expected",
        ("export", f"run={run}", "format=onnx", f"out={place / 'there.onnx'}"): f"out={place / 'there.onnx'}: exists",
        ("export", f"run={run}", "format=onnx", "out=x.pt"): "out=x.pt: expected a name that ends in .onnx.",
        ("export", f"run={run}", "format=peft", "merge=dense"): "merge=dense: format=peft holds the update apart",
        ("share", str(place)): f"run={place}: holds no result.json",
        ("plan", "method=lora", "method.rank=0"): "method.rank=0: expected at least 1.",
        ("plan", "data=folder", "data.root=/nowhere"): "data.root=/nowhere: there is no folder /nowhere",
        ("plan", "data=folder", f"data.root={place / 'one'}"): f"{place / 'one'}: holds no class folders",
        ("taps", "clear", "zzzz", f"taps.dir={place}"): "taps clear zzzz: no entry",
        ("data", "check", f"dir={place}"): f"{place}: holds no task of VTAB-1k",
        ("data", "prepare", "vtab/nothing"): "'vtab/nothing': is no task of VTAB-1k",
    }
    command = [sys.executable, "-c", ASK, json.dumps(list(mistakes))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(zip(mistakes.items(), json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_a_mistake_that_needs_no_torch_is_told_without_it(answers):
    for (words, sentence), (status, told, with_torch) in answers:
        assert status == 2, words
        assert told.startswith(f"peftbench: {sentence}"), (words, told)
        assert told.count("\n") == 1, told
        assert not with_torch, words
