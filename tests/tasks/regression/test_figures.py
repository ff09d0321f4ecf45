"""What is measured of predicted numbers, against scikit-learn and scipy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

from peftbench.tasks.regression.figures import RegressionFigures, r2_scores, rank_correlations


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 30), st.integers(1, 3), st.integers(0, 999), st.sampled_from([2, 1000]))
def test_metrics_are_those_of_scikit_learn_and_scipy(images, numbers, seed, levels):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, levels, (images, numbers)).astype(np.float32)
    true[:2] = [[0], [1]]  # no number is the same in all images
    said = (true + rng.normal(0, levels, true.shape)).round().astype(np.float32)
    metrics = RegressionFigures(numbers)
    for part in np.array_split(np.arange(images), 3):
        metrics.update(torch.from_numpy(said[part]), torch.from_numpy(true[part]))
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found["r2"] == pytest.approx(r2_score(true, said))
    assert found["mae"] == pytest.approx(mean_absolute_error(true, said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks = [spearmanr(said[:, k], true[:, k]).statistic for k in range(numbers)]
    assert found["spearman"] == pytest.approx(np.mean(np.nan_to_num(ranks)))  # of equal predictions it is 0


def test_constant_targets_are_not_judged_by_what_is_not_defined():
    true, said = np.array([[1.0, 2], [1, 3]]), np.array([[0.0, 2], [0, 3]])
    assert np.isnan(r2_scores(said, true)).tolist() == [True, False]
    assert np.isnan(rank_correlations(said, true)).tolist() == [True, False]
