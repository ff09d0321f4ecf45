"""Groups of classes: what each run of a sequence trains on, validates on and is tested on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench import UserError
from peftbench.data.base import Splits
from peftbench.data.class_groups import classes_in_groups, group_of_classes
from support.datasets import arrays, options


def splits(classes: int = 6, each: int = 4) -> Splits:
    """So many images of each class to train on; one to validate and two to test."""
    labels = np.arange(classes)
    parts = {
        role: arrays(np.repeat(labels, n).tolist(), role) for role, n in (("train", each), ("val", 1), ("test", 2))
    }
    return Splits("mine", tuple(f"c{i}" for i in labels), **parts)


def data(**changes):
    return replace(options(), **changes)


@settings(max_examples=30)
@given(st.integers(4, 30), st.data(), st.integers(0, 5))
def test_groups_are_of_nearly_equal_size_and_hold_each_class_once(classes, draw, seed):
    count = draw.draw(st.integers(2, classes // 2))
    groups = classes_in_groups([str(i) for i in range(classes)], data(class_groups=count, class_seed=seed))
    assert sorted(i for group in groups for i in group) == list(range(classes))
    sizes = [len(group) for group in groups]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1


def test_a_group_is_learned_and_all_so_far_are_tested():
    whole, chosen = splits(), data(class_groups=3, class_seed=1)
    groups = classes_in_groups(whole.classes, chosen)
    first, second, third = (group_of_classes(whole, replace(chosen, class_group=k)) for k in (1, 2, 3))
    assert third.classes == tuple(f"c{i}" for group in groups for i in group)
    assert second.classes == third.classes[:4], "the head's rows stay in their order"
    assert second.groups == (1, 1, 2, 2)
    assert set(second.train.labels) == set(second.val.labels) == {2, 3}
    assert set(second.test.labels) == {0, 1, 2, 3}
    assert {third.classes[label] for label in third.train.labels} == {f"c{i}" for i in groups[2]}
    assert (len(first.test), len(second.test), len(third.test)) == (4, 8, 12)
    assert second.name == "mine-group-2-of-3"
    own = group_of_classes(whole, replace(chosen, class_group=2, class_scope="own"))
    assert own.classes == second.classes[2:]
    assert own.groups == (2, 2)
    assert set(own.test.labels) == {0, 1}
    assert group_of_classes(whole, chosen) is whole


def test_what_is_kept_of_earlier_classes_is_so_many_of_each_and_stays_the_same():
    whole, chosen = splits(), data(class_groups=3, replay=2)
    second, third = (group_of_classes(whole, replace(chosen, class_group=k)) for k in (2, 3))
    assert np.bincount(second.train.labels).tolist() == [2, 2, 4, 4]
    assert np.bincount(third.train.labels).tolist() == [2, 2, 2, 2, 4, 4]
    assert set(third.val.labels) == {4, 5}
    first_classes = {name for name, label in zip(second.train.names, second.train.labels, strict=True) if label < 2}
    assert first_classes <= set(third.train.names)
    every = group_of_classes(whole, replace(chosen, class_group=3, replay="all"))
    assert len(every.train) == 24
    assert set(every.val.labels) == set(range(6))


def test_groups_that_are_named_are_taken_in_their_order():
    whole = splits(4)
    named = data(class_groups=(("c3", "c1"), ("c0", "c2")), class_group=2)
    assert group_of_classes(whole, named).classes == ("c3", "c1", "c0", "c2")


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (4, "data.class_groups=4: data=mine has 6 classes, and a group needs two; expected 2 to 3."),
        (7, "data=mine has 6 classes"),
        ((("c0", "c9"), ("c1", "c2")), "'c9' is no class of data=mine"),
        ((("c0", "c1"), ("c1", "c2")), "names 'c1' twice"),
        ((("c0", "c1"), ("c2", "c3")), "leaves out 'c4'"),
        ((("c0",), ("c1", "c2", "c3", "c4", "c5")), "group 1 is ['c0']; expected two classes or more"),
    ],
)
def test_what_is_no_grouping_is_refused(groups, told):
    with pytest.raises(UserError) as problem:
        classes_in_groups(splits().classes, data(class_groups=groups))
    assert told in str(problem.value)


def test_a_group_without_images_is_refused():
    whole = splits(4)
    lacking = replace(whole, test=whole.test.take([0, 1, 2, 3]))
    named = data(class_groups=(("c0", "c1"), ("c2", "c3")), class_group=2)
    with pytest.raises(UserError, match="mine has no image to test of c2, c3, group 2"):
        group_of_classes(lacking, named)
    lacking = replace(whole, train=whole.train.take(range(8)))
    with pytest.raises(UserError, match=r"data.class_group=2: mine has no image to train on of c2, c3"):
        group_of_classes(lacking, named)
