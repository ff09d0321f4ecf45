"""Runs of a side method trained together: each as it would be alone, each with its own record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import peftbench
from peftbench.data import read_ahead
from peftbench.runs.run import run_jointly
from peftbench.sweeps.grouping import group_by_signature, joint_signature

BASE = [
    "backbone=resnet_nano",
    "data=folder",
    "data.val_fraction=0.2",
    "trainer.epochs=2",
    "trainer.max_batches=4",
    "logger=none",
]
BASE += ["trainer.progress=false", "data.stage=fit"]


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory) -> None:
    """Some of the shipped photos, made as small as the backbone takes them: else each run decodes and shrinks them."""
    photos, small = Path(peftbench.__file__).parent / "data" / "photos", tmp_path_factory.mktemp("photos")
    for file in (file for folder in photos.glob("*/*/") for file in sorted(folder.glob("*.jpg"))[:9]):
        place = (small / file.relative_to(photos)).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).convert("RGB").resize((64, 64)).save(place)
    BASE.append(f"data.root={small}")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(read_ahead, "LEAST", 0)  # small batches too are read by a thread


def records(folder: Path) -> dict[str, dict]:
    found = [json.loads(p.read_text()) for p in folder.glob("[!.]*/result.json")]
    return {r["id"]: r for r in found}


def deltas(folder: Path, name: str) -> dict[str, torch.Tensor]:
    from peftbench.deltas import load_delta

    return load_delta(folder / name / "delta.safetensors")[0]


@pytest.mark.parametrize(
    "words",
    [
        ["method=losa", "method.rank=2,4", "optimizer.lr=1e-3,1e-2"],
        pytest.param(
            [
                *("method=losa", "seed=0,1", "data.order_seed=3", "trainer.clip=0.5", "optimizer.weight_decay=0.1"),
                *("optimizer.head_lr=3", "optimizer.decay_norms=true"),
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["method=losa", "method.norm=none,ln_noaffine", "optimizer=sgd", "optimizer.lr=0.1"], marks=pytest.mark.slow
        ),
        pytest.param(
            ["method=linear", "optimizer.lr=1e-3,1e-2", "optimizer.schedule=constant"], marks=pytest.mark.slow
        ),
    ],
)
def test_together_each_run_is_what_it_is_alone(cli, tmp_path, words):
    together, apart = tmp_path / "together", tmp_path / "apart"
    status, out, err = cli("-m", *BASE, *words, "sweep.together=8", f"output_dir={together}")
    assert status == 0, err
    assert ": together" in out
    assert cli("-m", *BASE, *words, f"output_dir={apart}")[0] == 0
    a, b = records(together), records(apart)
    assert set(a) == set(b)
    assert len(a) in (2, 4)
    for name, record in a.items():
        assert record["costs"]["together"] == len(a)
        assert "together" not in b[name]["costs"]
        assert record["metrics"] == pytest.approx(b[name]["metrics"], abs=1e-5)
        assert record["stamps"]["right"] == b[name]["stamps"]["right"]
        for mine, theirs in zip(record["history"], b[name]["history"], strict=True):
            assert mine["lr"] == theirs["lr"]
            assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
        ours, alone = deltas(together, name), deltas(apart, name)
        assert set(ours) == set(alone)
        assert all(torch.allclose(ours[k], alone[k], atol=2e-4) for k in ours)
    values = [r["metrics"]["train/loss"] for r in a.values()]
    assert len(set(values)) == len(values), "the runs differ from each other"
    assert f"/ {len(a)}" in out


def test_only_runs_with_the_same_batches_go_together(tmp_path):
    def sign(*words: str):
        return joint_signature(peftbench.compose("method=losa", *BASE, f"output_dir={tmp_path}", *words))

    base = sign()
    assert base == sign("optimizer.lr=0.1") == sign("method.rank=4") == sign("data.order_seed=0")
    assert sign("seed=1") != base
    assert sign("seed=1", "data.order_seed=0") == base
    for words in (["trainer.epochs=3"], ["data.batch_size=8"], ["optimizer=sgd"], ["backbone=vit_nano"]):
        assert sign(*words) != base
    for words in (
        ["method.tap_last=2"],
        ["trainer.precision=bf16"],
        ["data.val_fraction=0.1"],
        ["method=linear"],
        ["taps=off"],
    ):
        assert sign(*words) != base
    random = ["backbone.pretrained=false", "data.order_seed=0"]
    assert sign(*random) != sign(*random, "seed=1"), "they start from other weights"
    for words in (["method=bitfit"], ["data.ood=[noise:3]"], ["optimizer=ftp"]):
        assert sign(*words) is None


def test_groups_keep_the_order_and_the_size():
    assert group_by_signature(["a", "b", "a", None, "a", "b", None], 2) == [[0, 2], [1, 5], [3], [4], [6]]
    assert group_by_signature(["a", "a", "a"], 1) == [[0], [1], [2]]
    assert group_by_signature([], 4) == []


def test_a_run_that_diverges_fails_alone(tmp_path):
    def config(rate: str, *more: str):
        words = ["method=losa", "optimizer=sgd", "optimizer.schedule=constant", "optimizer.warmup=0.0"]
        return peftbench.compose(*BASE, *words, f"optimizer.lr={rate}", f"output_dir={tmp_path}", *more)

    good, bad = run_jointly([config("0.01"), config("1e30")])
    assert good.status == "complete"
    assert bad.status == "failed"
    assert "became nan in epoch" in bad.reason
    written = records(tmp_path)
    assert {written[good.id]["status"], written[bad.id]["status"]} == {"complete", "failed"}
    (alone,) = run_jointly([config("0.01", "force=true")])
    assert alone.metrics == pytest.approx(good.metrics, abs=1e-5)


@pytest.mark.slow
def test_what_is_complete_is_not_repeated(cli, tmp_path):
    words = ["-m", *BASE, "method=losa", "sweep.together=4"]
    assert cli(*words, "optimizer.lr=1e-3,2e-3")[0] == 0
    before = {n: r["history"] for n, r in records(tmp_path).items()}
    assert cli(*words, "optimizer.lr=1e-3,2e-3,3e-3,4e-3")[0] == 0
    after = records(tmp_path)
    assert {n: after[n]["history"] for n in before} == before
    assert [after[n]["costs"]["together"] for n in after if n not in before] == [2, 2]
    assert not list((tmp_path / ".together").glob("*")), "the checkpoint of all of them goes when they are complete"


@pytest.mark.slow
def test_weight_methods_run_apart_in_the_same_sweep(cli, tmp_path):
    assert cli("-m", *BASE, "method=linear,bitfit", "optimizer.lr=1e-3,1e-2", "sweep.together=4")[0] == 0
    found = [(r["config"]["method"]["name"], r["costs"].get("together")) for r in records(tmp_path).values()]
    assert sorted(found, key=str) == [("bitfit", None), ("bitfit", None), ("linear", 2), ("linear", 2)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "sweep.together=0"], "sweep.together=0: expected how many runs"),
        (["-m", "sweep.together=x"], "sweep.together=x: expected how many runs"),
        (["-m", "sweep.togther=2"], "sweep.togther: there is no such key"),
        (["sweep.together=2"], "only a sweep has runs"),
        (["-m", "sweep.together=2", "hydra/launcher=joblib"], "share a process"),
    ],
)
def test_mistakes_are_one_sentence(cli, words, told):
    status, _, err = cli(*words, "method=losa", *BASE)
    assert status == 2
    assert told in err
    assert err.count("\n") == 1
