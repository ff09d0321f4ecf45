"""Methods that change what a backbone is built of, in whole runs: stopped and resumed, exported, by two processes."""

from __future__ import annotations

import pytest
import torch

import peftbench
from support.finished_runs import pictures, same
from support.processes import one_and_two_processes
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
    one_and_two_processes([*words, f"method={method[0]}", *method[1:], "trainer.epochs=2"], tmp_path)
