"""What a classifier's predictions amount to: figures of each class, AUROC, calibration, bootstrap intervals."""

from __future__ import annotations

import numpy as np

BINS = 10
RESAMPLES = 1000
LEVEL = 0.95


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """Softmax of logits (N, classes), float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(1, keepdims=True)


def confusion_of(labels: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): rows are the truth, columns what was said."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, said), 1)
    return counts


def by_class(confusion: np.ndarray) -> list[dict[str, float | None]]:
    """`precision`, `recall` and `f1` of each class; None where it has no image, or for precision is never said."""
    rows: list[dict[str, float | None]] = []
    for hits, there, said in zip(np.diag(confusion), confusion.sum(1), confusion.sum(0), strict=True):
        rows.append(
            {
                "precision": float(hits / said) if said else None,
                "recall": float(hits / there) if there else None,
                "f1": float(2 * hits / (there + said)) if there else None,
            }
        )
    return rows


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The probability that a positive scores above a negative, ties count half; None where either is lacking.

    Args:
        scores: (N,).
        positive: bool (N,).
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def reliability(sure: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[list[float]]:
    """[mean probability, share right, images] of each of `bins` equal bins of the probability that has an image.

    Args:
        sure: the probability of the class that was said, (N,).
        right: whether it is the true one, bool (N,).
        bins: how many.
    """
    place = np.minimum((sure * bins).astype(int), bins - 1)
    members = [place == i for i in range(bins)]
    return [[float(sure[m].mean()), float(right[m].mean()), int(m.sum())] for m in members if m.any()]


def calibration_error(curve: list[list[float]]) -> float:
    """Expected calibration error of a reliability curve (Guo et al., 2017), from 0 to 1."""
    images = sum(number for _, _, number in curve)
    return float(sum(number * abs(sure - right) for sure, right, number in curve) / images)


def means(labels: np.ndarray, said: np.ndarray, classes: int) -> dict[str, float]:
    """`accuracy`, and the means `class_accuracy` and `f1` over the classes that have images."""
    hits = np.bincount(labels[labels == said], minlength=classes)
    there, spoken = np.bincount(labels, minlength=classes), np.bincount(said, minlength=classes)
    seen = there > 0
    return {
        "accuracy": float(hits.sum() / len(labels)),
        "class_accuracy": float((hits[seen] / there[seen]).mean()),
        "f1": float((2 * hits[seen] / (there + spoken)[seen]).mean()),
    }


def intervals(labels: np.ndarray, said: np.ndarray, classes: int, seed: int) -> dict[str, list[float]]:
    """[low, high] of each of `means`: percentiles over images drawn anew, with replacement."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(labels), len(labels)) for _ in range(RESAMPLES)]
    values = [means(labels[at], said[at], classes) for at in drawn]
    ends = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    return {name: np.percentile([v[name] for v in values], ends).tolist() for name in values[0]}
