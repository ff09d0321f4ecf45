"""Figures of images that are drawn anew: each is what scikit-learn says of the images of its draw."""

from __future__ import annotations

import warnings

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, roc_auc_score

from peftbench.results.resampled import (
    LEAST,
    RESAMPLES,
    Ranked,
    counts_of_draws,
    draws,
    interval,
    mean_area,
    number_of_draws,
)


def peer(score, positive, scores):
    """What scikit-learn says; not a number where it is not defined."""
    if not positive.any() or (score is roc_auc_score and positive.all()):
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return score(positive, scores)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 6))
def test_areas_in_each_draw_are_those_of_scikit_learn_on_its_images(seed, images, values):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, values, images) / values, rng.random(images) < 0.4
    counts = next(counts_of_draws(images, seed, 4))
    ranked = Ranked(scores, positive)
    drawn = list(draws(images, seed, 4))
    for area, score in ((ranked.auroc, roc_auc_score), (ranked.average_precision, average_precision_score)):
        assert_allclose(area(counts), [peer(score, positive[at], scores[at]) for at in drawn], atol=1e-6)


def test_the_mean_is_over_the_classes_that_a_draw_has():
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.4, 0.6], [0.1, 0.7, 0.1], [0.2, 0.9, 0.3]])
    positive = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=bool)
    assert mean_area(scores, positive, Ranked.auroc, 0) == [1.0, 1.0], "the third class is never there"
    assert mean_area(scores[:, 2:], positive[:, 2:], Ranked.auroc, 0) is None


def test_an_interval_leaves_out_what_is_no_number():
    assert_allclose(interval([np.nan, *np.linspace(0, 1, 41)]), [0.025, 0.975])
    assert interval([np.nan]) is None


def test_large_sets_have_fewer_draws():
    assert number_of_draws(1000) == RESAMPLES
    assert LEAST < number_of_draws(400_000) < RESAMPLES
    assert number_of_draws(10**9) == LEAST
