"""Which labels a probe doubts that never saw them: confident learning over a frozen backbone's features.

Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (https://arxiv.org/abs/1911.00068),
through its authors' library cleanlab. The probe is a logistic regression on standardised features, cross-validated over
all splits together (our choice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.data.check.cleanlab_library import require_cleanlab
from peftbench.data.check.pictures import picture_of
from peftbench.runs.build import build_backbone, transform_of

SHOWN = 20
_FOLDS = 5
_AT_ONCE = 32


class Doubt(NamedTuple):
    """A label that the probe doubts.

    Attributes:
        role, at: the split of its image, and the place there.
        given: the class that the data give it.
        guess: the class that the probe takes for the likeliest.
        confidence: the probability that the probe gives to the given class.
        issue: whether confident learning counts it among the labels that are wrong.
    """

    role: str
    at: int
    given: int
    guess: int
    confidence: float
    issue: bool


def doubt_labels(
    config: Config,
    splits: Mapping[str, Split],
    broken: Mapping[str, Mapping[int, str]],
    watch: Watch = lambda done, of: None,
) -> tuple[list[Doubt], list[str]]:
    """(the labels that the probe doubts most, at most 20 and the least likely first; notes).

    Args:
        config: its backbone, its seed, and how its images are prepared.
        splits: by role.
        broken: role -> the images that cannot be read, which are left out.
        watch: called with the number of images that have been seen, and of how many.

    Raises:
        UserError: cleanlab is missing, labels are no classes, or fewer than two classes have two images.
    """
    cleanlab = require_cleanlab()
    if any(split.labels.dtype.kind not in "iu" or split.labels.ndim != 1 for split in splits.values()):
        raise UserError("data check backbone=…: doubts labels that are one class an image; leave backbone out.")
    images = [(role, at) for role, split in splits.items() for at in range(len(split)) if at not in broken[role]]
    labels = np.array([int(splits[role].labels[at]) for role, at in images], dtype=np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    several = classes[counts > 1]
    if len(several) < 2:
        raise UserError("data check backbone=…: needs two classes with two images or more, to learn one from another.")
    notes = []
    if lone := len(classes) - len(several):
        notes.append(f"labels of classes with one image are not doubted ({lone:,})")
    kept = np.flatnonzero(np.isin(labels, several))
    images, labels = [images[at] for at in kept], labels[kept]
    features = _features(config, splits, images, watch)
    order, numbers = np.unique(labels, return_inverse=True)
    likely = _cross_validated(features, numbers, config.seed)
    scores = cleanlab.rank.get_label_quality_scores(numbers, likely, method="self_confidence")
    issues = cleanlab.filter.find_label_issues(numbers, likely, n_jobs=1)
    guesses = likely.argmax(axis=1)
    doubted = [at for at in np.argsort(scores, kind="stable").tolist() if guesses[at] != numbers[at]][:SHOWN]
    return [
        Doubt(
            images[at][0], images[at][1], int(labels[at]), int(order[guesses[at]]), float(scores[at]), bool(issues[at])
        )
        for at in doubted
    ], notes


@torch.no_grad()
def _features(
    config: Config, splits: Mapping[str, Split], images: Sequence[tuple[str, int]], watch: Watch
) -> np.ndarray:
    """float32 (N, width): what the backbone's own pooling makes of each image, by its starting weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = build_backbone(config).to(device).eval()
    prepared: Any = transform_of(config, backbone)
    prepared = replace(prepared.plain(), range="auto")  # the pictures are of 8 bits
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (prepared.mean, prepared.std))
    last = len(backbone.facts.taps) - 1
    features = []
    for start in range(0, len(images), _AT_ONCE):
        batch = images[start : start + _AT_ONCE]
        pixels = torch.stack([prepared(picture_of(splits[role], at, config.data.range)) for role, at in batch])
        (tap,) = backbone.taps((pixels.to(device).float() / 255 - mean) / std, [last])
        features.append(backbone.pool(tap).float().cpu().numpy())
        watch(start + len(batch), len(images))
    return np.concatenate(features)


def _cross_validated(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """float64 (N, classes): the probabilities of each image, by a probe that was not trained on it."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(min(_FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed % 2**32)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an order of doubt needs no last digit
        likely: np.ndarray = cross_val_predict(probe, features, labels, cv=folds, method="predict_proba")
    return likely
