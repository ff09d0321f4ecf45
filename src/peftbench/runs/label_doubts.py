"""Which labels a probe doubts that never saw them: confident learning over a frozen backbone's features.

Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (https://arxiv.org/abs/1911.00068),
through its authors' library cleanlab. The probe is a logistic regression on standardised features, cross-validated over
all splits together (our choice).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.common.seeds import random_numbers_kept
from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.data.check.cleanlab_library import require_cleanlab
from peftbench.data.images import Indices
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs.arithmetic import settled_arithmetic
from peftbench.runs.build import build_backbone, instantiate, transform_of
from peftbench.tasks.base import task_class
from peftbench.training import device_of_process, tap_filling

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
    classes: Sequence[str],
    broken: Mapping[str, Mapping[int, str]],
    watch: Watch = lambda done, of: None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[list[Doubt], list[str]]:
    """(the labels that the probe doubts most, at most 20 and the least likely first; notes).

    Args:
        config: of a linear probe: its backbone, its seed, how its images are prepared, and whether taps are kept.
        splits: by role.
        classes: the names of the labels.
        broken: role -> the images that cannot be read, which are left out.
        watch: called with the number of images that went through the backbone, and of how many; images whose taps are
            kept already do not.
        tell: shows the user a sentence.

    Raises:
        UserError: cleanlab is missing, labels are no classes, or fewer than two classes have two images; as
            `keep_taps_of`.
    """
    cleanlab = require_cleanlab()
    if any(split.labels.dtype.kind not in "iu" or split.labels.ndim != 1 for split in splits.values()):
        raise UserError("data check backbone=…: doubts labels that are one class an image; leave backbone out.")
    images = [(role, at) for role, split in splits.items() for at in range(len(split)) if at not in broken[role]]
    labels = np.array([int(splits[role].labels[at]) for role, at in images], dtype=np.int64)
    there, counts = np.unique(labels, return_counts=True)
    several = there[counts > 1]
    if len(several) < 2:
        raise UserError("data check backbone=…: needs two classes with two images or more, to learn one from another.")
    notes = []
    if lone := len(there) - len(several):
        notes.append(f"labels of classes with one image are not doubted ({lone:,})")
    kept = np.flatnonzero(np.isin(labels, several))
    features = _features(config, _whole(splits, broken), classes, watch, tell)[kept]
    images, labels = [images[at] for at in kept], labels[kept]
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


def _whole(splits: Mapping[str, Split], broken: Mapping[str, Mapping[int, str]]) -> dict[str, Split]:
    """The splits without the images that cannot be read. One that is whole is the same, as are its kept taps."""
    whole = {role: [at for at in range(len(split)) if at not in broken[role]] for role, split in splits.items()}
    return {
        role: split if len(whole[role]) == len(split) else split.take(whole[role])
        for role, split in splits.items()
        if whole[role]
    }


@torch.no_grad()
def _features(
    config: Config, splits: Mapping[str, Split], classes: Sequence[str], watch: Watch, tell: Callable[[str], None]
) -> np.ndarray:
    """float32 (N, width): what a linear probe's head would see of each image, one split after the other.

    Taps are kept as a run keeps them, those of test images too: nothing here is tested.
    """
    unmixed = replace(config.data, mixup=0.0, cutmix=0.0)
    plain = replace(unmixed, augment="none", augment_on="host", jitter=0.0, erase=0.0)
    config, _ = settled_arithmetic(replace(config, data=plain))
    method = instantiate(config.method)
    backbone = build_backbone(config, tell)
    transform = transform_of(config, backbone)
    with random_numbers_kept():
        task = task_class(config.task).build(config.task, backbone, classes)
    model = Model(backbone, task, transform.mean, transform.std)
    model.adapted(method.adapt(backbone, Plan()))
    device = device_of_process(config.trainer)
    model.to(device).eval()
    parts = [transform.over(split, "refuse", config.data.memory_gb, lambda done, of: None) for split in splits.values()]
    features, total = [], sum(map(len, parts))
    with model.padded_batches():
        tap_filling.keep_taps_of(parts, config, model, backbone.fingerprint, device, watch, tell)
        for images in parts:
            for rows in torch.arange(len(images)).split(_AT_ONCE):
                pixels, _, taps = images.__getitems__(Indices(rows.tolist(), None))
                cached = None if taps is None else [tap.to(device) for tap in taps]
                pooled = backbone.pool(model.extract(pixels.to(device), cached)[-1]).float()
                features += [pooled if pixels.ndim == 4 else pooled.unflatten(0, pixels.shape[:2]).mean(1)]
                if taps is None:
                    watch(sum(map(len, features)), total)
    return torch.cat(features).cpu().numpy()


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
