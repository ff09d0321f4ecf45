"""What the closing table and a report say of a method below the probe, and of a run that overfits."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from peftbench.cli.main import main
from peftbench.results import Record, print_table
from peftbench.results.per_image import write_right
from support.reports import record, write

PROBE = {"costs__parameters__method": 0}


def table(*records) -> str:
    out = io.StringIO()
    print_table([Record(**{k: v for k, v in one.items() if k != "schema"}) for one in records], Console(file=out))
    return out.getvalue()


def test_a_method_below_the_probe_is_told_in_table_and_report(capsys, tmp_path):
    probe, full = record("linear", accuracy=0.752, **PROBE), record("full", accuracy=0.41)
    told = "full reached 41.0 %, the probe (linear) 75.2 %: lower the learning rate"
    assert told in table(probe, full)
    assert main(["report", str(write(tmp_path, probe, full))]) == 0
    out = capsys.readouterr().out
    assert told in " ".join(out.split())
    assert "method=lp_ft" in out


@pytest.mark.parametrize(
    "other",
    [
        record("full", accuracy=0.748),
        record("full", accuracy=0.41, seed=1),
        record("full", accuracy=0.41, stamps__data__hash="of other images"),
        record("full", accuracy=0.9),
    ],
    ids=["inside a point", "another seed", "other data", "above"],
)
def test_else_nothing_is_told(other):
    assert "the probe (" not in table(record("linear", accuracy=0.752, **PROBE), other)


FEW = {"stamps__data__images": {"train": 40, "test": 11}}
MULTI = {"config__task": {"name": "multilabel"}}


@pytest.mark.parametrize(
    ("probe", "other"),
    [
        ({"accuracy": 8 / 11, **FEW}, {"accuracy": 4 / 11, **FEW}),
        ({"metrics": {"test/mAP": 0.9}, **MULTI}, {"metrics": {"test/mAP": 0.4}, **MULTI}),
        ({"accuracy": 0.9, "stamps__data__images": None}, {"accuracy": 0.4, "stamps__data__images": None}),
    ],
    ids=["few images", "a metric that counts none, of one seed", "no number of images"],
)
def test_nothing_is_told_of_what_the_test_images_do_not_tell(probe, other, capsys, tmp_path):
    records = [record("linear", **PROBE, **probe), record("full", **other)]
    assert "the probe (" not in table(*records)
    assert "the probe (" not in report(capsys, tmp_path, *records)


def test_images_that_both_runs_saw_are_compared_one_by_one(tmp_path):
    records = [record("linear", accuracy=1.0, **PROBE, **FEW), record("mlp", accuracy=6 / 11, **FEW)]
    assert "the probe (" in table(*records), "as shares of other images they are told apart"
    write(tmp_path, *records)
    for one, right in zip(records, ([True] * 11, [True] * 6 + [False] * 5), strict=True):
        one["stamps"]["right"] = write_right(right, "accuracy", tmp_path / one["id"])
        one["folder"] = str(tmp_path / one["id"])
    assert "the probe (" not in table(*records), "five images against none: p = 0.06"


def test_after_two_epochs_more_of_them_are_advised_before_another_rate():
    probe = record("linear", accuracy=0.752, **PROBE)
    for epochs, advice in ((1, "1 epoch may be too few: give more (trainer.epochs)"), (2, "2 epochs may be too few")):
        rows = curve((2.0, 2.0), (1.9, 1.9))[:epochs]
        told = table(probe, record("full", accuracy=0.41, history=rows))
        assert f"the probe (linear) 75.2 %: {advice}" in told
        assert "lower the learning rate" not in told


@pytest.mark.parametrize(("inside", "decays"), [(0, False), (1000, True), (None, None)])
def test_what_trains_nothing_of_the_backbone_is_not_sent_to_layer_decay(inside, decays, capsys, tmp_path):
    more = {} if inside is None else {"costs__parameters__in_backbone": inside}
    records = [record("linear", accuracy=0.9, **PROBE), record("any", accuracy=0.4, **more)]
    for told in (table(*records), report(capsys, tmp_path, *records)):
        note = told[told.index("the probe (linear) 90.0 %: lower the learning rate") :]
        assert ("layer decay" in note, "method=lp_ft" in note) == ((False, False) if decays is False else (True, True))
        assert ("where it trains the backbone" in note) == (decays is None)


def test_the_linear_probe_is_named_before_a_better_head_that_was_solved():
    linear, mine = record("mine", accuracy=0.8, **PROBE), record("full", accuracy=0.4)
    solved = record("closed", accuracy=0.9, stamps__solved={"images": 9}, **PROBE)
    assert "the probe (mine) 80.0 %" in table(solved, linear, mine)
    assert "the solved head (closed) 90.0 %" in table(solved, mine)


def curve(*losses):
    return [{"epoch": i + 1, "step": i, "train_loss": t, "val_loss": v} for i, (t, v) in enumerate(losses)]


def test_a_run_whose_validation_loss_rises_while_training_falls_overfits():
    bad = record("full", history=curve((1.0, 0.9), (0.5, 0.6), (0.1, 0.8)))
    assert "full: overfits: its validation loss was least in epoch 2 (0.6) and is 0.8 in epoch 3" in table(bad)
    for losses in ([(1.0, 0.9), (0.5, 0.6), (0.1, 0.63)], [(0.5, 0.6), (0.9, 0.9)], [(0.5, 0.6)]):
        assert "overfits" not in table(record("full", history=curve(*losses)))


OVERFITS = curve((1.0, 0.9), (0.5, 0.6), (0.1, 0.8))


def report(capsys, folder, *records) -> str:
    """What a report of these records tells, its lines put together."""
    assert main(["report", str(write(folder, *records))]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_report_says_of_how_many_runs_a_method_overfits(capsys, tmp_path):
    runs = [record("full", history=OVERFITS), record("full", seed=1, history=OVERFITS), record("full", seed=2)]
    told = report(capsys, tmp_path, *runs, record("lora", history=curve((1.0, 0.9), (0.5, 0.6))))
    assert "digits: full overfits in 2 of 3 runs: of one, the validation loss was least in epoch 2 (0.6)" in told
    assert "lora overfits" not in told
    assert "full overfits:" in report(capsys, tmp_path / "one", runs[0])
    assert main(["report", f"run={tmp_path / 'one' / runs[0]['id']}"]) == 0
    assert (
        "It overfits: its validation loss was least in epoch 2"
        in (tmp_path / "one" / runs[0]["id"] / "page.html").read_text()
    )


@pytest.mark.parametrize(
    "more",
    [
        {"config__trainer__keep": "best"},
        {"history": [{"epoch": 1, "val_loss": 0.1}, {"epoch": 2, "val_loss": 0.9, "train_loss": None}]},
        {"history": [row | {"val_loss": float("nan")} for row in OVERFITS]},
    ],
    ids=["keeps its best epoch", "rows of another form", "not a number"],
)
def test_a_report_says_nothing_of_what_overfits_no_more_or_cannot_be_told(more, capsys, tmp_path):
    assert "overfits" not in report(capsys, tmp_path, record("full", **({"history": OVERFITS} | more)))
