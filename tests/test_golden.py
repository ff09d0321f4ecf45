"""Golden values: what no change of the code alone may move (scripts/golden.py says what they are)."""

import importlib.util
import json
import os
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

import peftbench
from support.backbones import composed, on_meta, parameters
from support.backbones import method as method_of

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("golden", HERE.parent / "scripts" / "golden.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

KNOWN = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))
ROWS = KNOWN["rows"]
YAMLS = golden.yamls()
RUNS = golden.runs()
TRAINED = [n for n in ROWS if n.startswith("run/") and "refused" not in ROWS[n]]
FAST = {"run/losa/vit_nano", "run/lora/resnet_nano", "run/full/resnet_nano/fcos"}
HOW = "make golden BASE=<commit> shows what moved; CONTRIBUTING.md says how to write the file anew"


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_row_is_in_the_file_and_no_other():
    assert set(ROWS) == {*YAMLS, *RUNS}, HOW


@pytest.mark.parametrize("name", [n for n in ROWS if n.startswith("yaml/")])
def test_what_the_id_of_a_run_hashes(name):
    assert "refused" not in ROWS[name]
    now = {name: golden.hashed(YAMLS[name])}
    assert not golden.differences({name: ROWS[name]}, now), HOW


@pytest.mark.parametrize("name", TRAINED)
def test_the_id_of_a_run(name):
    row = ROWS[name]
    config = peftbench.compose(*RUNS[name])
    assert golden.internal("run_id")(config, row["fingerprint"], row["split"]) == row["id"], HOW


# SPT's is decided by data: the trained rows count it.
@pytest.mark.parametrize("name", [n for n in TRAINED if fnmatch(n, "run/*/*_nano") and not n.startswith("run/spt")])
def test_the_count_of_a_method(name):
    _, method, backbone = name.split("/")
    meta = on_meta(composed(f"backbone={backbone}").backbone)
    assert parameters(method_of(method), meta) == ROWS[name]["parameters"], HOW


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in ROWS if n.startswith("run/")]
)
def test_three_batches(name, one_thread):
    """To the bit where the file was made; on another processor or with other versions, losses to 1e-4."""
    known, now = ROWS[name], golden.trained(RUNS[name])
    if golden.stamp() == KNOWN["stamp"] or "refused" in known:
        assert now == known, HOW
        return
    exact = {"id", "parameters"}
    assert {k: now[k] for k in exact} == {k: known[k] for k in exact}, HOW
    losses = [[float.fromhex(loss) for loss in row["losses"]] for row in (now, known)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-4), HOW


def test_a_difference_names_its_value_and_its_side():
    base = {"run/a": {"id": "x", "losses": ["0x1p+0"]}, "yaml/old": {}, "yaml/b": {"optimizer": {"lr": 1}}}
    here = {"run/a": {"id": "y", "losses": ["0x1p+0"]}, "yaml/new": {}, "yaml/b": {"optimizer": {"lr": 1.0, "k": 2}}}
    told = [
        'run/a/id: BASE "x", here "y"',
        "yaml/b/optimizer.k: only here (2)",
        "yaml/b/optimizer.lr: BASE 1, here 1.0",
        "yaml/new: only here",
        "yaml/old: only in BASE",
    ]
    assert golden.differences(base, here) == told
    assert golden.differences(base, here, ["run/*", "yaml/*/optimizer.k", "yaml/old"]) == told[2:4]


def test_the_cache_of_the_user_is_left_alone(monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", "elsewhere")
    assert golden.values(["yaml/train"])["rows"] == {"yaml/train": ROWS["yaml/train"]}
    assert os.environ["PEFTBENCH_CACHE"] == "elsewhere"
