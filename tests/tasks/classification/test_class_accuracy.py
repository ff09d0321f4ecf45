"""`class_accuracy`: the mean over the classes that have an image."""

from __future__ import annotations

import json

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import recall_score

from peftbench.tasks.classification.class_accuracy import ClassAccuracy
from support.datasets import write


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 12),
    pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=40),
    batch=st.integers(1, 9),
)
def test_it_is_the_mean_recall_of_the_classes_that_are_there(classes, pairs, batch):
    labels, told = (torch.tensor(column) % classes for column in zip(*pairs, strict=True))
    metric = ClassAccuracy(classes)
    for start in range(0, len(labels), batch):
        metric.update(torch.eye(classes)[told[start : start + batch]], labels[start : start + batch])
    there = np.unique(labels)
    expected = recall_score(labels, told, labels=there, average="macro", zero_division=0)
    assert abs(float(metric.compute()) - expected) < 1e-6


def test_a_shifted_set_without_some_classes_is_judged_by_those_it_has(cli, tiny, tmp_path):
    for number in range(12):
        write(tmp_path / "set" / "abc"[number % 3] / f"{number}.png")
        write(tmp_path / "shift" / "a" / f"{number}.png")
    words = [word for word in tiny if word != "data=digits"]
    words += ["method=linear", "data=folder", f"data.root={tmp_path / 'set'}", f"data.ood=[{tmp_path / 'shift'}]"]
    assert cli(*words, "optimizer.lr=1e-9")[0] == 0
    (file,) = tmp_path.glob("*/result.json")
    metrics = json.loads(file.read_text())["metrics"]
    shift = f"ood/{tmp_path / 'shift'}/"
    assert metrics[f"{shift}class_accuracy"] == metrics[f"{shift}accuracy"], "there is one class in it"
