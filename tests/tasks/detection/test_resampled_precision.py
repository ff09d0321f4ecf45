"""Intervals of a detector's average precision: matched once, weighed by how often each image is drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.data.boxes import Objects
from peftbench.tasks.detection.resampled_precision import HEADLINE, intervals_of_precision, matches, means
from support.average_precision import CLASSES, case, measured


def objects(target):
    return Objects(
        id=int(target["image_id"]),
        size=(200, 200),
        boxes=target["true_boxes"].numpy(),
        labels=target["true_labels"].numpy(),
        crowd=target["true_crowd"].numpy().astype(bool),
        area=target["true_area"].numpy(),
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_images_that_are_drawn_so_often_count_as_so_many_equal_images(seed, images):
    """Against faster-coco-eval over a set with each image so often. No two scores of an image are equal."""
    predictions, targets = case(seed, images)
    for i, one in enumerate(predictions):
        one["scores"] = one["scores"] + 1e-3 * (torch.arange(len(one["scores"])) * images + i)
    weights = np.random.default_rng(seed).integers(0, 3, images)
    for often in (np.ones(images, dtype=np.int64), weights):
        drawn = np.repeat(np.arange(images), often)
        copies = [targets[i] | {"image_id": torch.tensor(at)} for at, i in enumerate(drawn)]
        expected = measured([predictions[i] for i in drawn], copies).table() if len(drawn) else {}
        got = means(matches(predictions, [objects(t) for t in targets], len(CLASSES)), often)
        for name in HEADLINE:
            assert got[name] == pytest.approx(expected.get(name, float("nan")), abs=1e-9, nan_ok=True)


def test_the_interval_holds_the_figure_follows_the_seed_and_has_no_width_where_images_are_alike():
    predictions, targets = case(3, 30)
    truths = [objects(t) for t in targets]
    value = measured(predictions, targets).table()["AP"]
    intervals = intervals_of_precision(predictions, truths, len(CLASSES), seed=0)
    low, high = intervals["AP"]
    assert low < value < high
    assert high - low < 0.6
    assert intervals == intervals_of_precision(predictions, truths, len(CLASSES), seed=0)
    assert intervals != intervals_of_precision(predictions, truths, len(CLASSES), seed=1)
    alike = intervals_of_precision([predictions[0]] * 5, [truths[0]] * 5, len(CLASSES), seed=0)
    assert all(each is None or each[0] == pytest.approx(each[1]) for each in alike.values())
    nothing = [{key: values[:0] for key, values in p.items()} for p in predictions]
    assert intervals_of_precision(nothing, truths, len(CLASSES), 0)["AP"] == [0, 0]
