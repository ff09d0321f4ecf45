"""The figures of a classifier, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from peftbench.results import class_figures


@st.composite
def answers(draw):
    """(labels, logits) of a few images; logits are rounded, so that there are ties."""
    classes, images = draw(st.integers(2, 5)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(0, classes, images), rng.normal(size=(images, classes)).round(1)


@settings(deadline=None, max_examples=50)
@given(answers())
def test_figures_are_those_of_scikit_learn(answer):
    labels, logits = answer
    classes, said = logits.shape[1], logits.argmax(1)
    confusion = class_figures.confusion_of(labels, said, classes)
    assert (confusion == metrics.confusion_matrix(labels, said, labels=range(classes))).all()
    theirs = metrics.precision_recall_fscore_support(labels, said, labels=range(classes), zero_division=0)
    for i, row in enumerate(class_figures.by_class(confusion)):
        there, spoken = (labels == i).any(), (said == i).any()
        assert (row["precision"] is None) == (not spoken)
        assert (row["recall"] is None) == (row["f1"] is None) == (not there)
        if spoken:
            assert row["precision"] == pytest.approx(theirs[0][i])
        if there:
            assert (row["recall"], row["f1"]) == pytest.approx((theirs[1][i], theirs[2][i]))
        area = class_figures.auroc(logits[:, i], labels == i)
        assert (area is None) == (not there or bool((labels == i).all()))
        if area is not None:
            assert area == pytest.approx(metrics.roc_auc_score(labels == i, logits[:, i]))
    ours = class_figures.means(labels, said, classes)
    seen = np.unique(labels)
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(labels, said))
    assert ours["class_accuracy"] == pytest.approx(metrics.recall_score(labels, said, labels=seen, average="macro"))
    assert ours["f1"] == pytest.approx(metrics.f1_score(labels, said, labels=seen, average="macro"))


def test_calibration_error_of_a_model_that_is_as_sure_as_it_is_right_is_nothing_and_else_the_gap():
    right = np.array([True] * 8 + [False] * 2)
    assert class_figures.calibration_error(class_figures.reliability(np.full(10, 0.8), right)) == pytest.approx(0)
    curve = class_figures.reliability(np.array([0.95] * 5 + [0.55] * 5), np.array([True] * 4 + [False] * 6))
    assert curve == [[pytest.approx(0.55), 0.0, 5], [pytest.approx(0.95), 0.8, 5]]
    assert class_figures.calibration_error(curve) == pytest.approx((0.55 + 0.15) / 2)
    assert class_figures.reliability(np.ones(3), np.ones(3, bool)) == [[1.0, 1.0, 3]]


def test_intervals_are_those_of_the_binomial_and_come_from_the_seed():
    labels = np.zeros(400, dtype=np.int64)
    said = np.repeat([0, 1], 200)
    low, high = class_figures.intervals(labels, said, 2, 0)["accuracy"]
    half = 1.96 * np.sqrt(0.25 / 400)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.01)
    again, other = (class_figures.intervals(labels, said, 2, seed)["accuracy"] for seed in (0, 1))
    assert again == [low, high] != other


@pytest.mark.parametrize(("right", "expected"), [(0, (0, 0.2646)), (12, (0.7354, 1))])
def test_where_all_images_are_right_or_none_the_interval_is_the_exact_one(right, expected):
    labels = np.repeat([0, 1], 6)
    exact = stats.binomtest(right, 12).proportion_ci(0.95, "exact")
    intervals = class_figures.intervals(labels, labels if right else 1 - labels, 3, 0)
    assert (exact.low, exact.high) == pytest.approx(expected, abs=1e-4)
    for name in ("accuracy", "class_accuracy", "f1"):
        assert intervals[name] == pytest.approx([exact.low, exact.high])


def test_a_mean_over_uneven_classes_is_surer_of_no_more_than_its_images():
    labels = np.repeat([0, 1], [11, 1])
    intervals = class_figures.intervals(labels, labels, 2, 0)
    assert intervals["class_accuracy"][0] < intervals["accuracy"][0]
