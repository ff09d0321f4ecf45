"""The search for a learning rate: what it finds, and that nothing but the rate is left of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import peftbench
from peftbench.config import identity, replaced
from peftbench.results import Record
from peftbench.runs import found_rate
from peftbench.runs.run import run, run_jointly
from peftbench.sweeps.grouping import joint_signature
from support.finished_runs import pictures, records_in, same
from support.forks import python
from support.runs import QUICK, learned
from support.stops import interrupted_and_undisturbed

FIND = "optimizer.find_lr=true"


def of(folder: Path, *words: str) -> Record:
    return run(peftbench.compose(*QUICK, "logger=none", *words, f"output_dir={folder}"))


ALL = ["method=full", "optimizer.layer_decay=0.8", "optimizer.head_lr=3", "trainer.ema=0.5"]
MORE = [
    ["method=linear", "taps=memory"],
    ["method=ftp"],
    ["method=tpgm"],
    ["optimizer=ftp", "method=lora", "method.dropout=0.3", "backbone=vit_nano"],
    ["method=losa", "taps=memory", "trainer.precision=bf16"],
    ["method=lp_ft", "method.probe_epochs=2"],
    ["method=full", "optimizer=sgd", "trainer.clip=1", "trainer.accumulate=2", "data.augment=flip"],
    ["method=full", "optimizer=timm", "optimizer.name=muon"],
    ["method=spt_lora", "backbone=vit_nano"],
    ["method=linear", "taps=off", "data.workers=2", "data.memory_gb=0"],
    ["method=linear", "taps=off", "backbone=vit_nano", "backbone.pretrained=true", "backbone.stream=true"],
    ["method=full", "data=digits_det", "data.images=[16,4,6]", "data.canvas=64", "data.batch_size=4", "data.size=null"],
]


@pytest.mark.parametrize(
    "words", [MORE[0], *(pytest.param(w, marks=pytest.mark.slow) for w in (ALL, *MORE[1:]))], ids=" ".join
)
def test_nothing_differs_from_a_run_that_is_given_the_rate_by_hand(tmp_path, words):
    """Weights, batch-norms, optimizer, random numbers and the order of the data are as if nothing had been tried."""
    found = of(tmp_path, *words, FIND)
    rate = found.stamps["found_lr"]["lr"]
    by_hand = of(tmp_path, *words, f"optimizer.lr={rate}")
    assert found.id != by_hand.id
    assert found.config["optimizer"]["lr"] != rate
    assert [row["train_loss"] for row in found.history] == [row["train_loss"] for row in by_hand.history]
    assert [row["lr"] for row in found.history] == [row["lr"] for row in by_hand.history]
    assert found.metrics == by_hand.metrics
    assert same(learned(found), learned(by_hand))
    assert found.costs["find_lr"]["steps"] == len(found.stamps["found_lr"]["losses"])
    assert "find_lr" not in by_hand.costs


@pytest.mark.slow
def test_the_rate_is_where_the_loss_falls_whatever_the_middle_of_what_is_tried(tmp_path, capfd):
    """And where the loss falls most at the end of what was tried, it says that it may fall faster beyond."""
    words = ["method=linear", "taps=memory", "trainer.epochs=1", FIND]
    low, high = (of(tmp_path, *words, f"optimizer.lr={rate}").stamps["found_lr"] for rate in (0.003, 0.03))
    told = capfd.readouterr().err
    assert f"optimizer.find_lr: {low['lr']:g}; of rates from 3e-06 to 0.3 it is where the loss falls" in told
    assert "may fall faster" not in told
    assert 1 / 3 < low["lr"] / high["lr"] < 3
    assert low["lr"] > 0.001
    of(tmp_path, *words, "optimizer.lr=1e-5")
    assert "the loss may fall faster at higher ones: give such an optimizer.lr" in capfd.readouterr().err


@pytest.mark.parametrize("method", ["linear", pytest.param("lp_ft", marks=pytest.mark.slow)])
def test_a_resumed_run_goes_on_at_its_rate_to_the_same_bits(tmp_path, monkeypatch, method):
    searches, search = [], found_rate.find_rate
    monkeypatch.setattr(found_rate, "find_rate", lambda *given: searches.append(1) or search(*given))
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, f"method={method}", FIND, "logger=none")
    assert len(searches) == 2, "one for each folder"
    assert resumed.costs["time"]["sessions"] == 2
    assert resumed.stamps["found_lr"] == undisturbed.stamps["found_lr"]
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


def test_a_file_that_the_run_did_not_write_is_refused_in_one_sentence(tmp_path):
    config = peftbench.compose(*QUICK, "method=linear", "logger=none", FIND, f"output_dir={tmp_path}")
    folder = Path(run(config).folder)
    written = json.loads((folder / "found_lr.json").read_text())
    (folder / "result.json").unlink()
    edited = [b"[]", json.dumps({**written, "run": "another"}).encode()]
    edited.append(json.dumps({**written, "found": {**written["found"], "rate": "high"}}).encode())
    for content in edited:
        (folder / "found_lr.json").write_bytes(content)
        with pytest.raises(peftbench.UserError, match=r"found_lr\.json: is .*force=true") as refused:
            run(config)
        assert "\n" not in str(refused.value)


def test_where_no_rate_lowers_the_loss_it_says_so(tmp_path):
    with pytest.raises(peftbench.UserError, match=r"find_lr=true: the loss falls at no learning rate from 1e\+05 to"):
        of(tmp_path, "method=full", FIND, "optimizer.lr=1e8")
    (record,) = records_in(tmp_path)
    assert record.status == "failed"
    assert not list(tmp_path.glob("*/found_lr.json"))


def test_the_id_knows_of_it_and_what_cannot_be_is_refused(tmp_path, cli):
    plain = peftbench.compose(*QUICK, "method=linear")
    config = replaced(plain, {"optimizer.find_lr": True})
    assert identity(config) == {**identity(plain), "optimizer": {**identity(plain)["optimizer"], "find_lr": True}}
    assert joint_signature(plain) is not None
    assert joint_signature(config) is None
    with pytest.raises(peftbench.UserError, match=r"optimizer\.find_lr.*: such a run"):
        run_jointly([config, replaced(config, {"seed": 1})])
    with pytest.raises(peftbench.UserError, match="find_lr=true: one process looks for the rate and needs whole"):
        replaced(config, {"trainer.strategy": "fsdp", "trainer.accelerator": "gpu"})
    with pytest.raises(peftbench.UserError, match=r"whole batches, and trainer\.micro_batch=4 divides them"):
        replaced(config, {"trainer.micro_batch": 4})
    with pytest.raises(peftbench.UserError, match=r"optimizer\.find_lr='often': expected a valid boolean"):
        peftbench.compose(*QUICK, "method=linear", "optimizer.find_lr=often")
    grid = ["protocol=vtab1k", "protocol.trials=2", "sweep.grid={optimizer.lr:[1e-3,1e-2]}"]
    status, out, _ = cli("-m", *QUICK, "method=linear", FIND, *grid)
    assert status == 2
    assert "sweep.grid: optimizer.lr is not to be tuned where optimizer.find_lr=true" in out
    assert not list(tmp_path.glob("*/result.json"))
    status, out, _ = cli("plan", *QUICK, "method=linear", FIND)
    assert status == 0
    assert "first: a few dozen steps that look for the learning rate" in out


@pytest.mark.slow
def test_two_processes_train_at_the_rate_that_the_first_finds(tmp_path):
    """Each would take half a batch, and the first looks for the rate with whole ones."""
    data = f"data.root={pictures(tmp_path / 'pictures')}"
    words = ["backbone=vit_nano", "data=folder", data, "data.val_fraction=0.25", "data.batch_size=16", "logger=none"]
    words += ["method=full", "trainer.epochs=2", "trainer.accelerator=cpu", "trainer.progress=false", FIND]
    pair = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"output_dir={tmp_path / 'two'}"]
    command = [python(), "-m", "peftbench.cli.main", *words, *pair]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("optimizer.find_lr: ") == 1
    (two,) = records_in(tmp_path / "two")
    one = run(peftbench.compose(*words, f"output_dir={tmp_path / 'one'}"))
    assert one.stamps["found_lr"]["losses"] == pytest.approx(two.stamps["found_lr"]["losses"], rel=1e-3)
    assert one.stamps["found_lr"]["lr"] == two.stamps["found_lr"]["lr"]
    losses = [[row["train_loss"] for row in x.history] for x in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
