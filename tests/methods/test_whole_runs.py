"""Methods that change what a backbone is built of, in whole runs: stopped and resumed, exported, by two processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import peftbench
from peftbench.runs.run import run
from support.finished_runs import pictures, records_in, same
from support.runs import SMALL, learned
from support.stops import interrupted_and_undisturbed

LN = ["partial", "method.preset=ln"]
ALONE = [
    ["dtl"],
    ["dtl_plus"],
    ["apla"],
    ["apla", "method.rows=4"],
    ["partial"],
    ["partial", "method.preset=ln"],
    ["ssf"],
]
"""Those whose runs are followed through here; the others have tests of their own."""
PAIRS = [["vpt"], ["partial"], ["apla", "method.rows=4"], ["dtl"], ["ssf"]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    data = f"data.root={pictures(tmp_path_factory.mktemp('pictures'))}"
    more = ["data.val_fraction=0.25", "data.batch_size=16", "trainer.max_batches=2", "logger=none"]
    return [*SMALL, "data=folder", data, *more, "backbone=vit_nano", "data.size=null"]


@pytest.mark.parametrize("method", ALONE, ids=" ".join)
def test_a_run_resumes_to_the_same_bits_loads_and_is_exported(method, words, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from peftbench.tuned.export.files import export

    words = [*words, f"method={method[0]}", *method[1:], "trainer.epochs=3"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, at=3)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    tuned = [peftbench.load(record.folder) for record in (resumed, undisturbed)]
    assert torch.equal(tuned[0](pixels), tuned[1](pixels))
    assert export(resumed.folder, "onnx").difference < 1e-4
    assert export(resumed.folder, "torch_export").difference < 1e-4


@pytest.mark.parametrize("method", PAIRS, ids=" ".join)
def test_two_processes_learn_what_one_does(method, words, tmp_path):
    words = [*words, f"method={method[0]}", *method[1:], "trainer.epochs=2", "trainer.accelerator=cpu"]
    pair = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"output_dir={tmp_path / 'two'}"]
    done = subprocess.run(
        [sys.executable, "-m", "peftbench.cli.main", *words, *pair], capture_output=True, text=True, timeout=480
    )
    assert done.returncode == 0, done.stderr
    (two,) = records_in(tmp_path / "two")
    one = run(peftbench.compose(*words, f"output_dir={tmp_path / 'one'}"))
    assert two.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], rel=1e-4)
    a, b = learned(one), learned(two)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[n], b[n], rtol=1e-2, atol=1e-4) for n in a)
