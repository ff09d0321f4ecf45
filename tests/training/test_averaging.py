"""The moving average of what trains: its values, what is validated, and that training does not notice it."""

from __future__ import annotations

import pytest
import torch

import peftbench
from peftbench.runs.run import run
from support.finished_runs import pictures, same
from support.runs import SMALL, learned
from support.stops import interrupted_and_undisturbed

WORDS = [*SMALL, "method=full", "logger=none", "data.stage=tune", "data.batch_size=16", "data.eval_batch_size=200"]
WORDS += ["optimizer.schedule=constant", "optimizer.warmup=0", "optimizer.lr=0.01"]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> list[str]:
    """Words of a data set of few images."""
    return ["data=folder", f"data.root={pictures(tmp_path_factory.mktemp('pictures'))}", "data.val_fraction=0.25"]


def of(folder, *words):
    return run(peftbench.compose(*WORDS, *words, f"output_dir={folder}"))


def test_the_saved_weights_are_the_average_of_those_after_each_step(tmp_path, few):
    """9/10 of the first step, as the warm-up says, then 0.85 of the second, as the decay says."""
    first, second = (learned(of(tmp_path, *few, "trainer.epochs=1", f"trainer.max_batches={n}")) for n in (1, 2))
    average = learned(of(tmp_path, *few, "trainer.epochs=1", "trainer.max_batches=2", "trainer.ema=0.15"))
    start = {"backbone.net.bn1.running_mean": 0.0, "backbone.net.bn1.running_var": 1.0, "task.head.bias": 0.0}
    for name, value in start.items():
        expected = 0.15 * (0.1 * value + 0.9 * first[name]) + 0.85 * second[name]
        assert torch.allclose(average[name], expected, atol=1e-6), name
        assert not torch.allclose(average[name], second[name], atol=1e-6)
    assert average["backbone.net.bn1.num_batches_tracked"] == 2


def test_what_is_validated_is_the_average_and_training_does_not_notice(tmp_path, few):
    """WiSE-FT at 1.0 changes nothing, and validates once more what will be saved."""
    words = [*few, "method=wise_ft", "method.alpha=1.0", "trainer.epochs=2", "trainer.max_batches=2"]
    plain, averaged = of(tmp_path, *words), of(tmp_path, *words, "trainer.ema=0.9")
    assert [row["train_loss"] for row in averaged.history] == [row["train_loss"] for row in plain.history]
    assert averaged.metrics["val/loss"] == averaged.history[-1]["val_loss"]
    assert averaged.metrics["val/loss"] != plain.metrics["val/loss"]
    assert not same(learned(averaged), learned(plain))


MANY = [["method=ftp"], ["method=tpgm"], ["method=losa", "taps=memory"], ["trainer.accumulate=2"]]


@pytest.mark.slow
@pytest.mark.parametrize("words", MANY, ids=" ".join)
def test_it_resumes_to_the_same_bits(tmp_path, monkeypatch, words):
    more = ["trainer.epochs=2", "trainer.max_batches=4", "trainer.ema=0.9"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *WORDS, *words, *more, at=6)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.slow
def test_a_backbone_that_caches_what_it_computes_is_validated_as_it_is_saved(tmp_path, few):
    words = ["backbone=timm", "backbone.name=levit_128s", "data.size=224", "data.batch_size=4", "method=wise_ft"]
    words += ["method.alpha=1.0", "trainer.epochs=2", "trainer.max_batches=2", "trainer.ema=0.5"]
    record = of(tmp_path, *few, *words)
    assert record.metrics["val/loss"] == pytest.approx(record.history[-1]["val_loss"], abs=1e-6)
