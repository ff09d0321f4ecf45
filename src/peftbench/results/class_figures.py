"""What a classifier's predictions amount to: figures of each class, AUROC, calibration, bootstrap intervals."""

from __future__ import annotations

import numpy as np

from peftbench.results.resampled import intervals_of, of_all_or_none

BINS = 10
TEMPERATURES = (0.05, 20.0)


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


def intervals(labels: np.ndarray, said: np.ndarray, classes: int, seed: int) -> dict[str, list[float] | None]:
    """[low, high] of each of `means`: percentiles over images drawn anew, with replacement.

    Where all images are right, or none, draws say nothing, and the interval is the exact one of so many images. A mean
    over K classes is then worth K² / Σ 1/n_k images, n_k of class k: its variance is that of such a share (our
    reading).
    """
    share = float((labels == said).mean())
    if share in (0.0, 1.0):
        there = np.bincount(labels, minlength=classes)
        there = there[there > 0]
        over_classes = of_all_or_none(share, float(len(there) ** 2 / (1 / there).sum()))
        return {"accuracy": of_all_or_none(share, len(labels)), "class_accuracy": over_classes, "f1": over_classes}
    return intervals_of(lambda at: means(labels[at], said[at], classes), len(labels), seed)


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels (N,), of logits (N, classes) divided by a temperature."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(1, keepdims=True)
    return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]).mean())


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that serves the likelihood of the labels best (Guo et al., 2017), from 0.05 to 20.

    The likelihood has one maximum in the inverse temperature. Where every image is right, or the logits say nothing,
    it lies at an end of that range (our reading; the paper leaves the range open).
    """
    from scipy.optimize import minimize_scalar  # half a second, and few need it

    low, high = TEMPERATURES
    result = minimize_scalar(
        lambda power: cross_entropy(logits, labels, float(np.exp(power))),
        bounds=(np.log(low), np.log(high)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(result.x))


def is_at_an_end(temperature: float) -> bool:
    """Whether a fitted temperature stopped at an end of its range, where it is no best one."""
    return any(abs(np.log(temperature / end)) < 1e-4 for end in TEMPERATURES)
