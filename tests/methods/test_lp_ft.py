"""LP-FT, and with it what any method may have: a first phase, whose head is where its own training begins."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

import peftbench
from peftbench.config import replaced
from peftbench.results import Record
from peftbench.runs.run import run
from peftbench.sweeps.grouping import joint_signature
from support.finished_runs import pictures, records_in, same
from support.forks import python
from support.runs import SMALL, learned
from support.stops import interrupted_and_undisturbed

PROBE = ["method.probe_epochs=3", "method.probe_lr=0.01"]
ALL = ["optimizer.layer_decay=0.8", "optimizer.head_lr=2", "trainer.ema=0.5", "trainer.keep=best"]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    data = f"data.root={pictures(tmp_path_factory.mktemp('pictures'))}"
    more = ["data.val_fraction=0.25", "data.batch_size=16", "trainer.max_batches=2", "logger=none"]
    return [*SMALL, "data=folder", data, *more]


def of(folder: Path, *words: str) -> Record:
    return run(peftbench.compose(*words, f"output_dir={folder}"))


def test_the_first_phase_is_the_linear_probe_and_the_second_begins_from_its_head(words, tmp_path):
    """With steps of nearly no length the second phase shows where it began."""
    short = ["method=lp_ft", *PROBE, "optimizer.lr=1e-12", "trainer.epochs=1", "taps=memory"]
    record = of(tmp_path, *words, *short)
    probe = of(tmp_path, *words, "method=linear", "optimizer.lr=0.01", "trainer.epochs=3", "taps=memory")
    head = {n: t for n, t in learned(record).items() if n.startswith("task.")}
    kept = safetensors.torch.load_file(Path(record.folder) / "probe.safetensors")
    assert same(kept, learned(probe))
    assert all(torch.allclose(head[n], kept[n], atol=1e-6) for n in kept)

    phase, costs = record.stamps["first_phase"], record.costs["first_phase"]
    assert phase["name"] == "probe"
    assert (phase["epochs"], phase["lr"]) == (3, 0.01)
    assert phase["metrics"] == {n: v for n, v in probe.metrics.items() if not n.startswith("test/")}
    assert [row["train_loss"] for row in phase["history"]] == [row["train_loss"] for row in probe.history]
    assert len(record.history) == 1
    assert costs["taps"]["mode"] == "memory"
    assert record.costs["taps"]["mode"] == "off"
    assert record.costs["time"]["train"] == costs["time"]["train"] + record.history[0]["train_seconds"]
    assert not (Path(record.folder) / "probe").exists(), "its checkpoint is no longer needed"


@pytest.mark.slow
def test_a_run_that_starts_from_another_has_its_head_from_there_and_trains_no_probe(words, tmp_path):
    short = ["method=lp_ft", *PROBE, "optimizer.lr=1e-12", "trainer.epochs=1"]
    first = of(tmp_path, *words, *short)
    record = of(tmp_path, *words, *short, f"start={first.folder}")
    assert "first_phase" not in record.stamps
    assert record.stamps["start"]["run"] == first.id
    assert not (Path(record.folder) / "probe.safetensors").exists()
    begun = learned(first)
    assert all(torch.allclose(t, begun[n], atol=1e-6) for n, t in learned(record).items() if n.startswith("task."))


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 9], ids=["probe", "full"])
def test_it_resumes_to_the_same_bits_in_either_phase(words, tmp_path, monkeypatch, at):
    """Three epochs of two batches, then three more."""
    resumed, undisturbed = interrupted_and_undisturbed(
        tmp_path, monkeypatch, *words, "method=lp_ft", *PROBE, *ALL, "trainer.epochs=3", at=at
    )
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics
    assert resumed.costs["time"]["sessions"] == 2
    for record in (resumed, undisturbed):
        for row in record.stamps["first_phase"]["history"]:
            row.pop("train_seconds")
    assert resumed.stamps["first_phase"] == undisturbed.stamps["first_phase"]
    assert resumed.stamps["kept"] == undisturbed.stamps["kept"]
    assert resumed.stamps["first_phase"]["kept"]["keep"] == "best"


@pytest.mark.slow
@pytest.mark.parametrize("more", [["optimizer=ftp"], ["optimizer=sgd"], ["data.augment=flip"]], ids=" ".join)
def test_it_goes_with_other_options(words, tmp_path, monkeypatch, more):
    """Augmented images keep no taps, and the probe trains from the images themselves."""
    pair = interrupted_and_undisturbed(
        tmp_path, monkeypatch, *words, "method=lp_ft", *PROBE, *more, "trainer.epochs=2", at=8
    )
    assert same(*map(learned, pair))
    kept = "off" if more == ["data.augment=flip"] else "disk"
    assert pair[1].costs["first_phase"]["taps"]["mode"] == kept


@pytest.mark.slow
def test_the_budget_of_time_is_that_of_both_phases(words, tmp_path):
    minutes = 4 / 60
    long = ["method=lp_ft", "method.probe_epochs=100000", "trainer.epochs=100000", f"trainer.minutes={minutes}"]
    record = of(tmp_path, *words, *long)
    first = record.costs["first_phase"]["time"]
    assert record.stamps["first_phase"]["kept"]["ended_by"] == record.stamps["kept"]["ended_by"] == "minutes"
    assert first["train"] + first["validate"] < 0.6 * 60 * minutes
    assert record.costs["time"]["train"] + record.costs["time"]["validate"] < 1.2 * 60 * minutes


@pytest.mark.slow
def test_two_processes_train_both_phases_as_one_does(words, tmp_path):
    more = ["method=lp_ft", *PROBE, "trainer.epochs=2", "trainer.accelerator=cpu"]
    more += ["backbone=vit_nano", "data.size=null"]  # without batch-norm, which would see half a batch in each
    pair = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"output_dir={tmp_path / 'two'}"]
    command = [python(), "-m", "peftbench.cli.main", *words, *more, *pair]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    (two,) = records_in(tmp_path / "two")
    one = of(tmp_path / "one", *words, *more)
    for a, b in ((one.stamps["first_phase"], two.stamps["first_phase"]), (vars(one), vars(two))):
        losses = [[row["train_loss"] for row in x["history"]] for x in (a, b)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert a["metrics"]["val/loss"] == pytest.approx(b["metrics"]["val/loss"], rel=1e-4)


@pytest.mark.slow
def test_a_detector_has_a_first_phase_too(tmp_path):
    words = ["backbone=resnet_nano", "data=digits_det", "data.images=[16,4,6]", "data.canvas=64", "data.batch_size=4"]
    words += ["trainer.progress=false", "logger=none", "trainer.epochs=1", "trainer.max_batches=2"]
    record = of(tmp_path, *words, "method=lp_ft", "method.probe_epochs=2")
    assert "val/AP" in record.stamps["first_phase"]["metrics"]


def test_a_file_of_another_phase_is_refused_in_one_sentence(words, tmp_path):
    config = peftbench.compose(
        *words, "method=lp_ft", "method.probe_epochs=1", "trainer.epochs=1", f"output_dir={tmp_path}"
    )
    record = run(config)
    folder = Path(record.folder)
    (folder / "result.json").unlink()
    (folder / "checkpoint.ckpt").unlink()
    data = bytearray((folder / "probe.safetensors").read_bytes())
    data[-3] ^= 1
    (folder / "probe.safetensors").write_bytes(data)
    with pytest.raises(peftbench.UserError, match=r"probe\.safetensors: is damaged.*force=true") as refused:
        run(config)
    assert "\n" not in str(refused.value)
    content = json.loads((folder / "result.json").read_text())
    assert content["status"] == "failed"


def test_what_cannot_be_is_refused_in_one_sentence(words):
    config = peftbench.compose(*words, "method=lp_ft")
    assert joint_signature(config) is None
    with pytest.raises(peftbench.Refusal, match="method=lp_ft: its second phase begins from whole tensors"):
        run(replaced(config, {"trainer.strategy": "fsdp", "trainer.accelerator": "gpu"}))
    for key in ("probe_epochs", "probe_lr"):
        with pytest.raises(peftbench.UserError, match=f"method.{key}=0"):
            peftbench.compose(*words, "method=lp_ft", f"method.{key}=0")


METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from peftbench.methods.base import Phase
from peftbench.methods.bitfit import BitFit
from peftbench.methods.losa import LoSA

@dataclass(frozen=True)
class Mine(BitFit):
    phased: ClassVar[bool] = True
    epochs: int = 1
    probes: bool = True

    def first_phase(self):
        return Phase("ladder", LoSA() if self.probes else BitFit(), self.epochs, 0.003)
"""


@pytest.mark.slow
def test_a_method_from_outside_may_have_a_first_phase(words, tmp_path, monkeypatch):
    (tmp_path / "method_of_phases.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    mine = [*words, "method=bitfit", "method.path=method_of_phases.Mine", "trainer.epochs=1"]
    record = of(tmp_path, *mine)
    assert record.stamps["first_phase"]["name"] == "ladder"
    assert not any("side" in name for name in learned(record)), "the side net is left behind"
    for wrong in ("+method.epochs=0", "+method.probes=false"):
        with pytest.raises(peftbench.UserError, match=r"Mine\.first_phase\(\): expected a side method before"):
            of(tmp_path, *mine, wrong)
