"""The training loss of classification: weights of classes, the focal loss, targets in shares."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench.tasks.classification.focal import focal_loss
from peftbench.tasks.classification.task import Classification

LABELS = torch.tensor([0, 0, 0, 0, 1, 2, 2, 0])


def task(*words: str) -> Classification:
    section = peftbench.compose("data=digits", *words).task
    made = Classification.build(section, SimpleNamespace(facts=SimpleNamespace(width=3)), ["a", "b", "c"])
    nn.init.eye_(made.head.weight)
    made.learn_targets(LABELS.numpy())
    return made


def loss(made: Classification, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    identity = SimpleNamespace(pool=lambda taps: taps)
    return made.loss(lambda images: [images], identity, (logits, targets))


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


def by_hand(logits: torch.Tensor, weights: list[float], gamma: float) -> float:
    each = []
    for row, label in zip(logits.double().softmax(1).tolist(), LABELS.tolist(), strict=True):
        each.append(-weights[label] * (1 - row[label]) ** gamma * math.log(row[label]))
    return sum(each) / len(each)


@pytest.mark.parametrize(
    ("words", "weights", "gamma"),
    [
        (["task.class_weights=balanced"], [8 / 15, 8 / 3, 8 / 6], 0),
        (["task.class_weights=[1,5,0]"], [1, 5, 0], 0),
        (["task.focal_gamma=2"], [1, 1, 1], 2),
        (["task.focal_gamma=0.5", "task.class_weights=[1,2,3]"], [1, 2, 3], 0.5),
        ([], [1, 1, 1], 0),
    ],
)
def test_it_is_the_mean_over_images_of_each_ones_weighted_loss(logits, words, weights, gamma):
    made = task(*words)
    whole = loss(made, logits, LABELS)
    assert whole.item() == pytest.approx(by_hand(logits, weights, gamma), rel=1e-5)
    halves = [loss(made, logits[i::2], LABELS[i::2]) for i in (0, 1)]
    assert (sum(halves) / 2).item() == pytest.approx(whole.item(), rel=1e-5), "as processes share a batch out"
    shares = loss(made, logits, F.one_hot(LABELS, 3).float())
    assert shares.item() == pytest.approx(whole.item(), rel=1e-5)
    mixed = 0.3 * F.one_hot(LABELS, 3) + 0.7 * F.one_hot(LABELS.roll(1), 3)
    parts = 0.3 * loss(made, logits, LABELS) + 0.7 * loss(made, logits, LABELS.roll(1))
    assert loss(made, logits, mixed).item() == pytest.approx(parts.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_focal_loss_of_gamma_0_is_torchs_cross_entropy(logits, smoothing):
    weights = torch.tensor([1.0, 2.0, 0.5])
    for targets in (LABELS, torch.full((8, 3), 1 / 3)):
        expected = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction="none")
        assert torch.allclose(focal_loss(logits, targets, 0.0, weights, smoothing), expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients_are_numbers_where_all_is_right_or_wrong(gamma):
    logits = torch.tensor([[1000.0, 0.0, 0.0], [0.0, 1000.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, 0, 1]), gamma).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_weights_are_no_part_of_what_is_saved():
    assert task("task.class_weights=balanced").state_dict().keys() == task().state_dict().keys()


def test_evaluation_is_of_images_alike(logits):
    batch = (logits, LABELS)
    plain, weighed = task(), task("task.class_weights=balanced", "task.focal_gamma=2")
    assert plain.evaluation_loss(logits, batch) == weighed.evaluation_loss(logits, batch)
