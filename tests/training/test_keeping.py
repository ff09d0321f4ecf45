"""Which epoch a run keeps, and when it ends before its last."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

import peftbench
from peftbench.config import Config, replaced
from peftbench.results import Record, read_record
from peftbench.runs.run import run, run_jointly
from peftbench.sweeps.grouping import joint_signature
from peftbench.training.keeping import best_epoch
from support.detection import SMALL
from support.finished_runs import pictures, records_in, same
from support.forks import python
from support.runs import learned
from support.stops import interrupted_and_undisturbed, stopped_in


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a small run whose best epoch comes early."""
    data = [f"data.root={pictures(tmp_path_factory.mktemp('pictures'))}", "data.val_fraction=0.25", "data.size=32"]
    training = ["trainer.max_batches=2", "trainer.progress=false", "data.batch_size=16", "seed=1"]
    rates = ["optimizer.lr=0.003", "optimizer.schedule=constant", "optimizer.warmup=0", *RECIPE]
    return ["backbone=resnet_nano", "data=folder", "method=full", "logger=none", *data, *training, *rates]


RECIPE = ["optimizer.layer_decay=0.9", "optimizer.head_lr=2", "trainer.ema=0.2"]
BEST = ["trainer.keep=best", "trainer.patience=2", "trainer.epochs=9"]


@pytest.fixture(scope="module")
def best(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Record:
    return run(peftbench.compose(*words, *BEST, f"output_dir={tmp_path_factory.mktemp('best')}"))


def test_the_best_epoch_is_kept_as_if_it_had_been_the_last(best, words, tmp_path):
    values = [row["val_accuracy"] for row in best.history]
    epoch = values.index(max(values)) + 1
    assert best.stamps["kept"] == {
        "keep": "best",
        "epoch": epoch,
        "epochs": len(values),
        "val/accuracy": max(values),
        "ended_by": "patience",
        "average": 0.2,
    }
    assert len(values) == epoch + 2 < 9
    assert epoch > 1
    short = run(peftbench.compose(*words, f"trainer.epochs={epoch}", f"output_dir={tmp_path}"))
    assert short.stamps["kept"]["ended_by"] == "epochs"
    assert same(learned(best), learned(short))
    assert best.metrics == short.metrics
    assert read_record(Path(best.folder)).stamps["kept"] == best.stamps["kept"]


def test_a_run_that_is_stopped_after_its_best_epoch_keeps_it_to_the_bit(best, words, tmp_path):
    with stopped_in("validation_step", best.stamps["kept"]["epoch"] + 1):  # which has one step, and is made up for
        config = peftbench.compose(*words, *BEST, f"output_dir={tmp_path}")
        assert run(config).status == "interrupted"
    resumed = run(config)
    assert resumed.costs["time"]["sessions"] == 2
    assert same(learned(resumed), learned(best))
    assert resumed.metrics == best.metrics
    assert resumed.stamps["kept"] == best.stamps["kept"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "at", "after", "in the test"])
def test_a_run_that_is_killed_anywhere_keeps_its_best_epoch(best, words, tmp_path, place):
    """With a checkpoint after every step; the last time training is over, and the run dies before its record."""
    config = peftbench.compose(*words, *BEST, "trainer.checkpoint_seconds=0", f"output_dir={tmp_path}")
    epoch = best.stamps["kept"]["epoch"]
    step, at = {
        "before": ("validation_step", epoch - 1),
        "at": ("validation_step", epoch),
        "after": ("training_step", 2 * epoch + 2),
        "in the test": ("test_step", 1),
    }[place]
    with stopped_in(step, at, SystemExit(9)), pytest.raises(SystemExit):
        run(config)
    resumed = run(config)
    assert same(learned(resumed), learned(best))
    assert resumed.stamps["kept"] == best.stamps["kept"]


SIDE = ["method=losa", "optimizer.layer_decay=null"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [["method=ftp"], ["method=lora", "backbone=vit_nano"], SIDE], ids=" ".join)
def test_it_resumes_with_other_methods(words, tmp_path, monkeypatch, more):
    pair = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, *more, *BEST[:1], "trainer.epochs=4", at=7)
    assert same(*map(learned, pair))
    assert pair[0].metrics == pair[1].metrics


@pytest.mark.slow
def test_wise_ft_goes_half_way_from_the_best_epoch(words, tmp_path):
    whole = run(peftbench.compose(*words, "method=wise_ft", *BEST, f"output_dir={tmp_path}"))
    epoch = whole.stamps["kept"]["epoch"]
    assert epoch < len(whole.history)
    short = run(peftbench.compose(*words, "method=wise_ft", f"trainer.epochs={epoch}", f"output_dir={tmp_path}"))
    assert same(learned(whole), learned(short))
    assert whole.metrics == short.metrics


@pytest.mark.parametrize(
    ("values", "epoch"),
    [([0.1, 0.3, 0.3, 0.2], 2), ([float("nan"), 0.1], 2), ([0.5], 1), ([float("nan")], 1), ([], None)],
)
def test_ties_go_to_the_earlier_epoch_and_what_is_no_number_is_never_best(values, epoch):
    history = [{"epoch": i + 1, "val_AP": v} for i, v in enumerate(values)] + [{"epoch": len(values) + 1}]
    assert best_epoch(history, "val_AP") == epoch


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later whenever the budget looks at it: once a step, and once an epoch."""
    clock = itertools.count()
    monkeypatch.setattr("peftbench.training.time_budget.perf_counter", lambda: float(next(clock)))


TIMED = ["trainer.minutes=0.25", "trainer.epochs=100", "optimizer.schedule=cosine", "optimizer.warmup=0.4"]


def test_a_budget_of_time_ends_training_with_its_schedule_at_its_end(seconds, words, tmp_path):
    record = run(peftbench.compose(*words, *TIMED, f"output_dir={tmp_path}"))
    assert record.stamps["kept"]["ended_by"] == "minutes"
    assert "depends on the machine" in record.stamps["kept"]["note"]
    rates = [row["lr"] for row in record.history]
    assert 3 < len(rates) < 8  # 15 seconds, of which each epoch takes three
    assert rates[-1] < 0.1 * max(rates)
    assert rates[0] < max(rates)
    assert all("val_accuracy" in row for row in record.history)


@pytest.mark.slow
def test_the_time_spent_is_carried_over(seconds, words, tmp_path, monkeypatch):
    config = [*words, *TIMED, "trainer.minutes=0.5"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *config, at=9)
    assert resumed.costs["time"]["sessions"] == 2
    assert abs(len(resumed.history) - len(undisturbed.history)) <= 1
    with stopped_in("test_step", 1):
        config = peftbench.compose(*config, f"output_dir={tmp_path / 'c'}")
        assert run(config).status == "interrupted"
    again = run(config)
    assert len(again.history) == len(undisturbed.history), "there was no time left for another step"


@pytest.fixture(scope="module")
def probe(words: list[str]) -> Config:
    return peftbench.compose(*words, "method=linear", "optimizer.layer_decay=null", "trainer.ema=null")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patience": 0}, "trainer.patience=0: expected at least 1."),
        ({"minutes": 0}, "trainer.minutes=0.0: expected a number above 0, or null."),
        ({"keep": "first"}, "trainer.keep='first': expected 'last' or 'best'."),
        ({"ema": 1}, "trainer.ema=1.0: expected a number above 0 and below 1, or null."),
        ({"keep": "best", "strategy": "fsdp"}, "trainer.keep=best: needs whole tensors, which trainer=fsdp has not"),
        ({"ema": 0.9, "strategy": "fsdp"}, "trainer.ema=0.9: needs whole tensors, which trainer=fsdp has not"),
        ({"patience": 3, "stage": "final"}, "trainer.patience=3: data.stage=final trains on the validation images too"),
        ({"keep": "best", "stage": "final"}, "trainer.keep=best: data.stage=final trains on the validation images"),
    ],
    ids=str,
)
def test_mistakes_get_one_sentence(probe, changes, told):
    with pytest.raises(peftbench.UserError) as refused:
        replaced(probe, {f"{'data' if key == 'stage' else 'trainer'}.{key}": v for key, v in changes.items()})
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_what_was_kept_is_told_and_the_plan_says_what_it_does_not_count(words, cli):
    status, _, err = cli(*words, "method=bitfit", "trainer.epochs=2", "trainer.max_batches=1", "trainer.keep=best")
    assert status == 0
    assert re.search(r"^kept: epoch [12] of 2, \d+\.\d % on validation; ended by epochs$", err, re.MULTILINE)
    status, out, _ = cli("plan", *words, "trainer.keep=best")
    assert status == 0
    assert "without the copies that trainer.ema and trainer.keep=best keep" in out


def test_a_data_set_without_validation_images_is_refused(words, cli):
    status, _, err = cli(*words, "data.val_fraction=0", "trainer.patience=3")
    assert status == 2
    assert "trainer.patience=3: data=folder has no validation images to tell epochs apart; hold some out" in err


def test_such_runs_are_not_grouped(probe):
    assert joint_signature(probe) is not None
    for change in ({"keep": "best"}, {"patience": 1}, {"minutes": 1}, {"ema": 0.9}):
        assert joint_signature(replaced(probe, {f"trainer.{key}": v for key, v in change.items()})) is None
    best = replaced(probe, {"trainer.keep": "best"})
    with pytest.raises(peftbench.UserError, match="carry it out alone"):
        run_jointly([best, replaced(best, {"optimizer.lr": 0.5})])


@pytest.mark.slow
def test_two_processes_agree_on_the_epoch_and_the_end(words, tmp_path):
    more = ["method=bitfit", *BEST[:1], "trainer.patience=1", "trainer.minutes=5", "trainer.epochs=6"]
    more += ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"output_dir={tmp_path}"]
    command = [python(), "-m", "peftbench.cli.main", *words, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    (record,) = records_in(tmp_path)
    kept, values = record.stamps["kept"], [row["val_accuracy"] for row in record.history]
    assert kept["epoch"] == values.index(max(values)) + 1
    assert kept["epochs"] == len(values) == min(kept["epoch"] + 1, 6)
    assert kept["ended_by"] == ("patience" if len(values) < 6 else "epochs")


@pytest.mark.slow
def test_a_detector_keeps_its_best_epoch_by_ap(tmp_path):
    words = [*SMALL, "method=linear", "backbone=resnet_nano", "trainer.epochs=2", "trainer.max_batches=2", *BEST[:1]]
    words += [
        "data.images=[16,4,6]",
        "data.canvas=64",
        "data.batch_size=4",
        "trainer.progress=false",
        f"output_dir={tmp_path}",
    ]
    record = run(peftbench.compose(*words))
    values = [row["val_AP"] for row in record.history]
    assert record.stamps["kept"]["val/AP"] == max(values) == record.metrics["val/AP"]
