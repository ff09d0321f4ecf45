"""Classes of unequal size: drawn as often as others, weighed, and told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench
from peftbench.data.balancing import balanced_order, balanced_weights, note_imbalance

labels = st.lists(st.integers(0, 6), min_size=1, max_size=80)


@given(labels=labels, seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_each_class_comes_as_often_and_each_of_its_images_as_often(labels, seed):
    labels = torch.tensor(labels)
    order = balanced_order(labels, torch.Generator().manual_seed(seed))
    assert len(order) == len(labels)
    of_class = {label: (labels[order] == label).sum().item() for label in set(labels.tolist())}
    assert max(of_class.values()) - min(of_class.values()) <= 1
    times = torch.bincount(order, minlength=len(labels))
    for label in of_class:
        members = times[labels == label]
        assert members.max() - members.min() <= 1, "none comes again before all have come"
    assert torch.equal(order, balanced_order(labels, torch.Generator().manual_seed(seed)))


def test_a_rest_goes_to_other_classes_in_other_epochs():
    labels = torch.tensor([0] * 10 + [1])
    more = {
        (labels[balanced_order(labels, torch.Generator().manual_seed(seed))] == 1).sum().item() for seed in range(9)
    }
    assert more == {5, 6}


@given(labels=labels)
@settings(deadline=None)
def test_weights_give_each_class_that_occurs_the_same_sum_and_have_a_mean_of_one(labels):
    weights = balanced_weights(np.array(labels), 7)
    of_images = weights[torch.tensor(labels)]
    assert of_images.mean().item() == pytest.approx(1, abs=1e-5)
    sums = torch.zeros(7).index_add(0, torch.tensor(labels), of_images)
    assert torch.allclose(sums[sums > 0], sums.max(), rtol=1e-4)
    assert (weights > 0).sum() == len(set(labels))


MANY, FEW = np.array([0] * 30 + [1] * 3 + [2] * 9), np.array([0] * 29 + [1] * 3)
BASE = ["data=digits", "trainer.progress=false"]


def note(*words: str, labels: np.ndarray = MANY) -> str:
    return note_imbalance(peftbench.compose(*BASE, *words), ["cats", "dogs", "owls"], labels)


def test_ten_times_as_many_images_are_told_unless_something_acts_against_it():
    assert note() == (
        "class cats has 30 training images and dogs 3; what is rare may be missed, against which there are "
        "data.sampler=balanced, task.class_weights=balanced, task.focal_gamma=2"
    )
    assert note(labels=FEW) == ""
    for against in ("data.sampler=balanced", "task.class_weights=balanced", "task.class_weights=[1,9,3]"):
        assert note(against) == ""
    assert note("task.focal_gamma=1") == ""
    assert note("task.label_smoothing=0.1") != ""
    assert note_imbalance(peftbench.compose("data=digits_det"), ["cats", "dogs"], MANY) == ""
