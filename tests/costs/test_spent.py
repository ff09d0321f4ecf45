"""What runs leave of energy and price in their records."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import peftbench
from peftbench.cli.main import main
from peftbench.costs import rapl
from peftbench.runs.run import run_jointly
from peftbench.training.module import Fit

WORDS = ["taps=off", "trainer.epochs=2", "trainer.max_batches=3", "trainer.checkpoint_seconds=0"]


def stepping(patch, file, step, microjoules, broken_at=None):
    """Has each call of a step take so much; one may end in an error instead."""
    plain, calls = getattr(Fit, step), []

    def counted(self, *given):
        calls.append(step)
        if len(calls) == broken_at:
            raise RuntimeError("broken")
        file.write_text(str(int(file.read_text()) + microjoules))
        return plain(self, *given)

    patch.setattr(Fit, step, counted)
    return calls


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """The file of a processor's counter, at 0."""
    folder = tmp_path / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "0")):
        (folder / name).write_text(text)
    monkeypatch.setattr(rapl, "ZONES", tmp_path / "powercap")
    monkeypatch.setattr(sys, "platform", "linux")
    return folder / "energy_uj"


def test_training_and_test_are_measured_apart_and_a_resumed_run_adds_up(tiny, tmp_path, monkeypatch, counter):
    config = peftbench.compose(*tiny, *WORDS, "method=linear", f"output_dir={tmp_path}", "costs.watts=1000")
    with monkeypatch.context() as patch:
        stepping(patch, counter, "training_step", 2_000_000, broken_at=5)
        stepping(patch, counter, "validation_step", 70_000_000)
        with pytest.raises(RuntimeError, match="broken"):
            peftbench.run(config)
    with monkeypatch.context() as patch:
        stepping(patch, counter, "training_step", 2_000_000)
        stepping(patch, counter, "validation_step", 70_000_000)
        tests = stepping(patch, counter, "test_step", 3_000_000)
        record = peftbench.run(config)
    assert record.costs["time"]["sessions"] == 2
    assert record.costs["energy"] == {
        "train": 2.0 * 6,
        "test": 3.0 * len(tests),
        "measure": "rapl",
        "of": "the processor package of the machine, with all else that ran there; not the memory, nor disks",
    }
    assert "money" not in record.costs


def paid(costs):
    time = costs["time"]
    return time["train"] + time["validate"] + time["test"] + costs["taps"]["seconds"]


def test_runs_together_pay_equal_shares_of_what_a_run_alone_pays_whole(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rapl, "ZONES", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "linux")
    words = [*tiny, "method=linear", "taps=memory", "costs.price=2.5", "costs.watts=40", f"output_dir={tmp_path}"]
    rates = [f"optimizer.lr={rate}" for rate in (1e-3, 2e-3)]
    both = run_jointly([peftbench.compose(*words, rate) for rate in rates])
    for record in both:
        money, energy, time = record.costs["money"], record.costs["energy"], record.costs["time"]
        assert money["seconds"] == pytest.approx(paid(record.costs) / 2)
        assert money["amount"] == pytest.approx(paid(record.costs) / 2 / 3600 * 2.5)
        assert (money["price"], money["share_of"], energy["share_of"]) == (2.5, 2, 2)
        assert energy["measure"] == "estimate"
        assert energy["train"] == pytest.approx(40 * time["train"] / 2)
        assert energy["test"] == pytest.approx(40 * time["test"] / 2)
    bare = [word for word in words if not word.startswith("costs.")]
    assert main(["-m", *bare, "optimizer.lr=1e-3,2e-3", "costs.price=5"]) == 0
    told = capsys.readouterr().out
    whole = sum(2 * record.costs["money"]["amount"] for record in both)
    assert "at 5 an hour) (share of 2)" in told
    assert "Price of 2 complete runs together: " in told
    written = float(told.split("Price of 2 complete runs together: ")[1].split(" at 5 an hour")[0])
    assert written == pytest.approx(whole, rel=0.01)
    anew = json.loads((Path(both[0].folder) / "result.json").read_text())
    assert anew["costs"]["money"]["price"] == anew["config"]["costs"]["price"] == 5
    assert anew["id"] == both[0].id, "a price is no part of the id"
    assert anew["costs"]["time"] == both[0].costs["time"]


def test_a_plan_with_time_foretells_each_part_and_the_price(cli):
    words = ["plan", "method=linear", "backbone=vit_nano", "data=digits", "data.size=32", "data.batch_size=8"]
    words += ["taps=memory", "trainer.epochs=3", "trainer.max_batches=4", "costs.price=36", "costs.watts=10"]
    status, out, told = cli(*words, "time=true", "--json")
    assert (status, told) == (0, "")
    planned = json.loads(out)
    probe = planned["probe"]
    assert probe["training"] == pytest.approx(3 * 4 * probe["step"])
    assert min(probe["latency"], probe["filling"], probe["validating"], probe["evaluating"]) > 0
    whole = probe["training"] + probe["validating"] + probe["filling"] + probe["evaluating"]
    assert probe["run"] == pytest.approx(whole)
    assert probe["price"] == pytest.approx(whole / 100)
    assert probe["joules"] == pytest.approx(10 * (probe["training"] + probe["evaluating"]))
    assert any(note.startswith("time: an estimate from one step and one prediction") for note in planned["notes"])
    status, out, _ = cli(*words)
    assert status == 0
    assert "measured" not in out
    assert "price" not in out


@pytest.mark.parametrize("key", ["costs.price", "costs.watts"])
@pytest.mark.parametrize("value", ["0", "-2.5"])
def test_a_price_and_a_power_are_above_zero(key, value):
    with pytest.raises(peftbench.UserError, match=f"{key}={float(value)}: expected a number above 0, or null"):
        peftbench.compose("data=digits", f"{key}={value}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [["method=knn"], ["method=lp_ft", "method.probe_epochs=1"]], ids=["solved", "phases"]
)
def test_a_solved_head_and_a_first_phase_are_in_the_energy(tiny, tmp_path, monkeypatch, method):
    monkeypatch.setattr(rapl, "ZONES", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "linux")
    costs = peftbench.run(peftbench.compose(*tiny, *method, "costs.watts=40", f"output_dir={tmp_path}")).costs
    assert costs["energy"]["train"] == pytest.approx(40 * costs["time"]["train"])
    assert costs["energy"]["test"] == pytest.approx(40 * costs["time"]["test"])
    assert costs["energy"]["why_not"].startswith("the system shows no energy counter")
