"""The worked examples of docs/contribute: their files are written, and their commands carried out in their order.

`test_as_typed.py` carries the commands out in bash too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import peftbench
from peftbench.results import read_record
from support.document_world import arrays
from support.documents import EXAMPLES, commands_in, words_of, write_files
from support.finished_runs import pictures

PAGES = {page.stem: page for page in EXAMPLES}
SHORT = ["trainer.epochs=1", "trainer.max_batches=2", "data.size=32", "data.batch_size=16"]
SHORT += ["trainer.progress=false", "trainer.accelerator=cpu"]


@contextlib.contextmanager
def here(folder: Path):
    """The folder is the current one, and what lies in DIR can be imported; afterwards nothing of it is."""
    before, known, path = Path.cwd(), set(sys.modules), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder / "DIR"))
    importlib.invalidate_caches()
    try:
        yield folder
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(folder)):
                del sys.modules[name]


def carried_out(name: str, folder: Path) -> str:
    """Writes the files of a page and carries its commands out; what they print."""
    from io import StringIO

    from peftbench.cli.main import main
    from peftbench.cli.verbs import VERBS

    assert write_files(PAGES[name], folder)
    typed = [c for c in commands_in(PAGES[name].read_text(encoding="utf-8"), name) if c.block]
    told = StringIO()
    with here(folder), contextlib.redirect_stdout(told):
        for [(program, *given)] in words_of([c.lines for c in typed], folder / "bash"):
            if program == "python":
                runpy.run_path(given[0])
                continue
            short = [] if given[0] in VERBS else SHORT
            assert main([*given, *short]) == 0, told.getvalue()
    return told.getvalue()


def records(folder: Path) -> dict[str, peftbench.Record]:
    """Those of the runs in `folder/outputs`, by method and backbone."""
    found = [read_record(file.parent) for file in (folder / "outputs").glob("*/result.json")]
    assert all(record.status == "complete" for record in found), [record.reason for record in found]
    return {f"{r.config['method']['name']} {r.config['choices']['backbone']}": r for r in found}


def test_each_page_has_an_example():
    assert set(PAGES) == {"method", "task", "data_set", "backbone"}


@pytest.mark.parametrize("name", PAGES)
def test_a_class_of_an_example_is_short(name, tmp_path):
    for file in write_files(PAGES[name], tmp_path):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(lines) <= 60, f"{file.name} has {len(lines)} lines"


@pytest.mark.slow
def test_a_method(tmp_path):
    told = carried_out("method", tmp_path)
    assert "1,024" in told  # as the page says
    found = records(tmp_path)
    assert set(found) == {f"{m} {b}" for m in ("block_gain", "linear") for b in ("vit_nano", "resnet_nano")}
    assert found["block_gain vit_nano"].costs["parameters"]["method"] == 1024
    tensors = tensors_of(tmp_path / "outputs" / found["block_gain resnet_nano"].id)
    gains = [name for name in tensors if name.endswith(".gain")]
    assert len(gains) == len(tensors) - 2  # but for the head
    assert any((tensors[name] != 1).any() for name in gains)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["method.last=two", "method.lst=2"])
def test_a_mistake_in_an_option_of_the_method_is_answered(word, tmp_path, capsys):
    from peftbench.cli.main import main

    write_files(PAGES["method"], tmp_path)
    with here(tmp_path):
        assert main(["plan", "--config-dir", "DIR", "method=block_gain", "backbone=vit_nano", "data=digits", word]) == 2
    assert word.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_task(tmp_path):
    pictures(tmp_path / "made", train=12, test=4)
    (tmp_path / "labelled").mkdir()
    for number, word in enumerate(("zero", "one", "two", "three")):
        (tmp_path / "made" / "train" / word).rename(tmp_path / "labelled" / str(number))
    told = carried_out("task", tmp_path)
    assert "kappa %" in told
    found = records(tmp_path)
    for record in found.values():
        assert record.stamps["judged_by"] == "kappa"
        assert -1 <= record.metrics["test/kappa"] <= 1
    run = tmp_path / "outputs" / found["lora vit_nano"].id
    with here(tmp_path):
        tuned = peftbench.load(run, config_dir="DIR")
        grade = tuned(tuned.transform(next((tmp_path / "labelled" / "2").iterdir()))[None])
    assert grade.shape == (1, 1)
    assert 0 < float(grade) < 3


@pytest.mark.slow
def test_a_data_set(tmp_path, capsys):
    from peftbench.cli.main import main

    np.savez(tmp_path / "scans.npz", **arrays())
    told = carried_out("data_set", tmp_path)
    assert "64 images" in told
    [record] = records(tmp_path).values()
    assert record.stamps["data"]["split"] == "arrays-scans"
    assert record.stamps["data"]["classes"] == 10
    np.savez(tmp_path / "lost.npz", train_images=np.zeros((2, 8, 8), np.uint8))
    with here(tmp_path):
        words = ["method=linear", "backbone=vit_nano", "data=arrays", "data.root=lost.npz", *SHORT]
        assert main(["--config-dir", "DIR", *words]) != 0
    assert "train_images has no train_labels" in capsys.readouterr().err


@pytest.mark.slow
def test_a_backbone(tmp_path):
    told = carried_out("backbone", tmp_path)
    assert "mobilenet_v4" in told
    [record] = records(tmp_path).values()
    assert record.costs["parameters"]["backbone"] < 1_000_000
    assert json.dumps(record.stamps["backbone"]["weights"]) == '"small_vit.pth"'


def tensors_of(run: Path) -> dict[str, np.ndarray]:
    """What a run learned, by name."""
    from safetensors.numpy import load_file

    return load_file(run / "delta.safetensors")
