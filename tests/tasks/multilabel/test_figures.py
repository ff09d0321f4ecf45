"""What is measured of multi-label predictions, against scikit-learn and by trying every threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from peftbench.tasks.multilabel.figures import MultilabelFigures, average_precisions, best_threshold


def drawn(images: int, labels: int, seed: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, many of them equal where there are few levels, and labels, of which some label may have none."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-levels, levels + 1, (images, labels)) / 2
    return torch.tensor(logits), torch.tensor(rng.random((images, labels)) < rng.random(labels) ** 2).float()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 4), st.integers(0, 999), st.sampled_from([1, 3, 50]))
def test_metrics_are_those_of_scikit_learn(images, labels, seed, levels):
    logits, truth = drawn(images, labels, seed, levels)
    metrics = MultilabelFigures(labels, lambda: 0.5)
    for part in torch.arange(images).split(7):
        metrics.update(logits[part], truth[part])
    found = {name: value.item() for name, value in metrics.compute().items()}
    there = truth.bool().any(0).numpy()
    probabilities, said = logits.double().sigmoid(), (logits >= 0).numpy()
    each = [average_precision_score(truth[:, c], probabilities[:, c]) for c in np.flatnonzero(there)]
    assert found["mAP"] == pytest.approx(np.mean(each) if each else 0, abs=1e-6)
    own = [f1_score(truth[:, c], said[:, c], zero_division=0) for c in np.flatnonzero(there)]
    assert found["f1_macro"] == pytest.approx(np.mean(own) if own else 0)
    assert found["f1"] == pytest.approx(f1_score(truth.flatten(), said.flatten(), zero_division=0))
    assert np.isnan(average_precisions(probabilities, truth).numpy()).tolist() == (~there).tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(0, 999), st.sampled_from([1, 3, 50]))
def test_no_threshold_gives_a_larger_f1_than_the_best(images, labels, seed, levels):
    logits, truth = drawn(images, labels, seed, levels)
    probabilities = logits.double().sigmoid()

    def f1(threshold: float) -> float:
        return f1_score(truth.flatten(), (probabilities >= threshold).flatten(), zero_division=0)

    best = best_threshold(probabilities, truth)
    assert 0 <= best <= 1
    if truth.any():
        assert f1(best) == pytest.approx(max(f1(t) for t in [*probabilities.flatten().tolist(), 1.1]))
    else:
        assert best == 0.5
