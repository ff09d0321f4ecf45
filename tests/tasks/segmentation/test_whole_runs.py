"""Runs of segmentation that are stopped, and in two processes, while image and mask are augmented."""

from __future__ import annotations

import csv
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

import peftbench
from peftbench.runs.run import run
from support.finished_runs import same
from support.forks import python
from support.runs import learned
from support.stops import stopped_in

WORDS = [
    *("data=digits_seg", "data.images=[8,3,5]", "data.canvas=64", "data.batch_size=4", "backbone=resnet_nano"),
    *("data.augment=scale", "data.jitter=0.4", "trainer.epochs=2", "trainer.progress=false", "logger=none"),
    *("trainer.accelerator=cpu", "trainer.threads=1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["method=lora", "task.window=[32,48]", "task.boundary=true"],
        ["method=losa", "task.dice=1", "task.class_weights=balanced"],
        ["method=full", "data.augment=rrc", "trainer.ema=0.9"],
    ],
)
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(words, tmp_path):
    undisturbed, other = (peftbench.compose(*WORDS, *words, f"output_dir={tmp_path / place}") for place in "ab")
    whole = run(undisturbed)
    with stopped_in("training_step", 4):  # in the second epoch
        assert run(other).status == "interrupted"
    resumed = run(other)
    assert resumed.costs["time"]["sessions"] == 2
    assert same(learned(whole), learned(resumed))
    assert whole.metrics == resumed.metrics


@pytest.mark.slow
def test_two_processes_train_as_one_and_count_each_pixel_once(tmp_path):
    """Batch norms normalise what is computed at once, an image of two here, and keep statistics of one process."""
    words = [*WORDS, "method=lora", "data.batch_size=2", "optimizer=sgd", "optimizer.lr=0.05"]
    records, counts = [], []
    for place, more in (("one", ["trainer.micro_batch=1"]), ("two", ["trainer=ddp", "trainer.devices=2"])):
        command = [python(), "-m", "peftbench", *words, *more, f"output_dir={tmp_path / place}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
        assert done.returncode == 0, done.stderr
        (file,) = (tmp_path / place).glob("*/result.json")
        records.append(json.loads(file.read_text()))
        with (file.parent / "test_confusion.csv").open() as table:
            counts.append(sum(int(n) for row in list(csv.reader(table))[1:] for n in row[1:]))
    one, two = records
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
    places = zip(("one", "two"), records, strict=True)
    tensors = [load_file(tmp_path / place / record["id"] / "delta.safetensors") for place, record in places]
    trained = [name for name in tensors[0] if "running" not in name and "num_batches" not in name]
    assert trained
    assert all(torch.allclose(tensors[0][name], tensors[1][name], atol=1e-4) for name in trained)
    assert counts == [5 * 64 * 64] * 2
