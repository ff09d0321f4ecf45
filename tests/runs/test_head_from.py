"""`trainer.head_from=logreg`: a method that changes the backbone begins from the head that another works out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import peftbench
from peftbench.results import Record
from peftbench.runs.dry_run import plan_run
from peftbench.runs.run import run
from support.finished_runs import pictures
from support.runs import QUICK, SMALL, learned


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    data = f"data.root={pictures(tmp_path_factory.mktemp('pictures'))}"
    return [*SMALL, "data=folder", data, "data.val_fraction=0.25", "data.batch_size=16", "logger=none"]


STILL = ["optimizer.lr=1e-12", "trainer.epochs=1"]
"""Steps of nearly no length: what is learned is where the method began."""


def of(folder: Path, *words: str) -> Record:
    return run(peftbench.compose(*words, f"output_dir={folder}"))


def head_of(record: Record) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in learned(record).items() if name.startswith("task.")}


@pytest.fixture(scope="module")
def probe(words, tmp_path_factory) -> Record:
    return of(tmp_path_factory.mktemp("probe"), *words, "method=logreg")


@pytest.mark.parametrize("more", [["method=lora"], ["method=lp_ft", "data.augment=flip"]], ids=" ".join)
def test_training_begins_from_the_head_that_the_probe_has(words, probe, tmp_path, more):
    """So does LP-FT, in place of the linear probe that it trains otherwise; and augmentation is of training alone."""
    record = of(tmp_path, *words, *STILL, "trainer.head_from=logreg", *more)
    begun, ours = head_of(probe), head_of(record)
    assert begun.keys() == ours.keys()
    assert all(torch.allclose(ours[name], begun[name], atol=1e-5) for name in begun)
    phase = record.stamps["first_phase"]
    assert (phase["name"], phase["method"]) == ("head", "logreg")
    assert phase["solved"]["chosen"] == probe.stamps["solved"]["chosen"]
    assert phase["metrics"]["val/accuracy"] == probe.metrics["val/accuracy"]
    if more == ["method=lora"]:  # full fine-tuning moves the statistics of batch norms, whatever its rate
        assert record.metrics["val/accuracy"] == probe.metrics["val/accuracy"]
    first = record.costs["first_phase"]["time"]
    assert record.costs["time"]["train"] == pytest.approx(first["train"] + record.history[0]["train_seconds"])
    assert not (Path(record.folder) / "head").exists()


def test_it_stands_in_the_run_s_id_and_a_later_session_reads_the_head(words, tmp_path):
    ours = [*words, *STILL, "method=bitfit"]
    plain, begun = of(tmp_path, *ours), of(tmp_path, *ours, "trainer.head_from=ridge")
    assert plain.id != begun.id
    assert "first_phase" not in plain.stamps
    folder = Path(begun.folder)
    (folder / "result.json").unlink()
    (folder / "checkpoint.ckpt").unlink(missing_ok=True)
    written = (folder / "head.safetensors").stat().st_mtime_ns
    again = of(tmp_path, *ours, "trainer.head_from=ridge")
    assert again.id == begun.id
    assert again.stamps["first_phase"] == json.loads(json.dumps(begun.stamps["first_phase"]))
    assert (folder / "head.safetensors").stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_labels_and_numbers_begin_from_ridge(task, tmp_path):
    given = [*QUICK, f"task={task}", "logger=none"]
    probe = of(tmp_path, *given, "method=ridge")
    record = of(tmp_path, *given, *STILL, "method=lora", "trainer.head_from=ridge")
    begun, ours = head_of(probe), head_of(record)
    assert all(torch.allclose(ours[name], begun[name], atol=1e-5) for name in ("task.head.weight", "task.head.bias"))
    judged = f"val/{record.stamps['judged_by']}"
    assert record.metrics[judged] == pytest.approx(probe.metrics[judged], abs=1e-5)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["method=lora", "trainer.head_from=logregg"], "no such method (did you mean 'logreg'?)"),
        (["method=lora", "trainer.head_from=linear"], "trains its head; expected a method that works it out"),
        (["method=ridge", "trainer.head_from=logreg"], "method=ridge works its own head out; leave it out"),
        (["method=lora", "trainer.head_from=logreg", "start=/nowhere"], "start=/nowhere has a head to begin from"),
        (["method=lora", "trainer.head_from=logreg", "trainer=ddp", "trainer.devices=2"], "one process works the head"),
        (["method=losa", "trainer.head_from=logreg"], "is for methods that change the backbone, and method=losa"),
        (["method=lora", "trainer.head_from=knn"], "its head is no linear layer, which could train further"),
        (["method=lora", "trainer.head_from=logreg", "task=multilabel"], "trainer.head_from=ridge works"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_gives_no_head_to_begin_from_is_refused_in_one_sentence(words, tmp_path, more, said):
    with pytest.raises(peftbench.UserError, match=r"trainer\.head_from=") as refused:
        of(tmp_path, *words, *more)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("*/result.json"))


@pytest.mark.slow
def test_the_plan_says_that_a_head_comes_first(words):
    config = peftbench.compose(*words, "method=lora", "trainer.head_from=logreg")
    assert any("trainer.head_from=logreg" in note for note in plan_run(config).notes)
