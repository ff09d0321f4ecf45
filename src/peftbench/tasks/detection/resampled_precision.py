"""Intervals of COCO's average precision: its matches are found once, and counted for images that are drawn anew.

A match is within an image, so that a draw only weighs images. With every image once the figures are those of
faster-coco-eval, and an image that is drawn twice counts as two equal images do; tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftbench.data.boxes import Objects
from peftbench.results.resampled import counts_of_draws, interval, number_of_draws
from peftbench.tasks.detection.average_precision import DETECTIONS

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
HEADLINE = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Figure -> which of the overlaps it is the mean over."""


@dataclass(frozen=True)
class Matched:
    """The detections of one class in all images, the surest first, and how many objects there are.

    Attributes:
        images: int64 (n,), the place of the image of each.
        right, wrong: bool (overlaps, n); neither where it lies on a crowd.
        objects: int64 (images,), those that are no crowds.
    """

    images: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """The average precision at each overlap, float (overlaps,), of images so often; nan without an object.

        `weights` (images,) says how often each image is there.
        """
        objects = (weights * self.objects).sum()
        if not objects:
            return np.full(len(OVERLAPS), np.nan)
        of_each = weights[self.images].astype(np.float64)
        right, wrong = (np.cumsum(kind * of_each, axis=1) for kind in (self.right, self.wrong))
        precision = right / (right + wrong + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or a higher one
        values = np.zeros((len(OVERLAPS), len(RECALLS)))
        for row, recall in enumerate(right / objects):
            at = np.searchsorted(recall, RECALLS, side="left")
            reached = at < len(recall)
            values[row, reached] = best[row, at[reached]]
        return values.mean(1)


Overlaps = Callable[[Mapping[str, Any], np.ndarray, Objects, np.ndarray], np.ndarray]
"""From the detections of an image, which of them (n,), its objects and which of these (m,) to the share, float (n, m),
that two have in common: of both together, or of the detection where the object is a crowd."""


def box_overlaps(predicted: Mapping[str, Any], mine: np.ndarray, truth: Objects, theirs: np.ndarray) -> np.ndarray:
    """Of boxes."""
    boxes, truths = predicted["boxes"].double().numpy()[mine], truth.boxes[theirs].astype(np.float64)
    crowd = truth.crowd[theirs].astype(bool)
    shared = np.minimum(boxes[:, None, 2:], truths[None, :, 2:]) - np.maximum(boxes[:, None, :2], truths[None, :, :2])
    common = np.clip(shared, 0, None).prod(2)
    own, true = (np.clip(each[:, 2:] - each[:, :2], 0, None).prod(1) for each in (boxes, truths))
    union = np.where(crowd, own[:, None], own[:, None] + true - common)
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def mask_overlaps(predicted: Mapping[str, Any], mine: np.ndarray, truth: Objects, theirs: np.ndarray) -> np.ndarray:
    """Of masks, whose `segments` both have."""
    from faster_coco_eval.core import mask as coco

    segments = truth.segments or ()
    of_truth = [segments[at].run_lengths(truth.size) for at in theirs]
    found = [{"size": list(truth.size), "counts": predicted["segments"][at]} for at in mine]
    if not found or not of_truth:
        return np.zeros((len(found), len(of_truth)))
    return np.asarray(coco.iou(found, of_truth, truth.crowd[theirs].astype(int).tolist()))


def intervals_of_precision(
    predictions: Sequence[Mapping[str, Any]],
    truths: Sequence[Objects],
    classes: int,
    seed: int,
    overlaps: Overlaps = box_overlaps,
) -> dict[str, list[float] | None]:
    """The intervals of `HEADLINE`, over draws of images; arguments as in `matches`, and the seed of the draws."""
    matched = matches(predictions, truths, classes, overlaps)
    draws = number_of_draws(len(OVERLAPS) * sum(len(one.images) for one in matched))
    rows = [means(matched, weights) for some in counts_of_draws(len(truths), seed, draws) for weights in some]
    return {name: interval([row[name] for row in rows]) for name in HEADLINE}


def means(matched: Sequence[Matched], weights: np.ndarray) -> dict[str, float]:
    """The figures of `HEADLINE` of images so often: means over the classes with an object, nan where none has one."""
    by_class = np.array([one.precision(weights) for one in matched])
    by_class = by_class[~np.isnan(by_class[:, 0])]
    return {name: float(by_class[:, of].mean()) if len(by_class) else float("nan") for name, of in HEADLINE.items()}


def matches(
    predictions: Sequence[Mapping[str, Any]],
    truths: Sequence[Objects],
    classes: int,
    overlaps: Overlaps = box_overlaps,
) -> list[Matched]:
    """The matches of each class.

    Args:
        predictions: of each image `boxes` (n, 4) as x1, y1, x2, y2, `scores` (n,) and `labels` (n,) from 0.
        truths: the objects of each image.
        classes: how many.
        overlaps: of what they are measured.
    """
    found: list[list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(classes)]
    objects = np.zeros((classes, len(truths)), dtype=np.int64)
    for place, (predicted, truth) in enumerate(zip(predictions, truths, strict=True)):
        boxes, scores, labels = (predicted[key].double().numpy() for key in ("boxes", "scores", "labels"))
        sane = np.flatnonzero(np.isfinite(boxes).all(1) & np.isfinite(scores))
        order = sane[np.argsort(-scores[sane], kind="stable")][:DETECTIONS]
        for label in np.unique(np.concatenate([labels[order].astype(np.int64), truth.labels])).tolist():
            mine, theirs = order[labels[order] == label], np.flatnonzero(truth.labels == label)
            crowd = truth.crowd[theirs].astype(bool)
            objects[label, place] = (~crowd).sum()
            right, ignored = _matched(overlaps(predicted, mine, truth, theirs), crowd)
            found[label].append((np.full(len(mine), place), scores[mine], right, ignored))
    return [_of_class(parts, objects[label]) for label, parts in enumerate(found)]


def _of_class(parts: Sequence[tuple[np.ndarray, ...]], objects: np.ndarray) -> Matched:
    none = np.zeros((len(OVERLAPS), 0), dtype=bool)
    images = np.concatenate([np.zeros(0, dtype=np.int64), *(part[0] for part in parts)])
    scores = np.concatenate([np.zeros(0), *(part[1] for part in parts)])
    right, ignored = (np.concatenate([none, *(part[i] for part in parts)], axis=1) for i in (2, 3))
    order = np.argsort(-scores, kind="stable")
    return Matched(images[order], right[:, order], ~(right | ignored)[:, order], objects)


def _matched(overlap: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(right, ignored), bool (overlaps, n), of n detections of one class in one image, the surest first.

    As COCO matches: each takes the object that it overlaps most of those that are free, one of the last where they are
    equal, and a crowd, which stays free, only where there is none.

    Args:
        overlap: (n, m), with each object.
        crowd: bool (m,).
    """
    right, ignored = np.zeros((2, len(OVERLAPS), len(overlap)), dtype=bool)
    if not overlap.size:
        return right, ignored
    free = np.ones((len(OVERLAPS), len(crowd)), dtype=bool)
    for i in np.flatnonzero(overlap.max(1) >= OVERLAPS[0]):
        enough = overlap[i] >= OVERLAPS[:, None]
        for kind, told in ((~crowd, right), (crowd, ignored)):
            fits = enough & free & kind & ~right[:, i : i + 1]
            taken = len(crowd) - 1 - np.argmax(np.where(fits, overlap[i], -1)[:, ::-1], axis=1)
            there = fits.any(1)
            told[there, i] = True
            if told is right:
                free[np.flatnonzero(there), taken[there]] = False
    return right, ignored
