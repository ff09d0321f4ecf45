"""The losses of segmentation: ignored pixels, weights, Dice."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from peftbench.tasks.segmentation.loss import balanced_pixel_weights, cross_entropy, dice_loss


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 3, (4, 5, 6), generator=g, dtype=torch.uint8)
    masks[0, 0], masks[1] = 255, 255
    return torch.randn(4, 3, 5, 6, generator=g, requires_grad=True), masks


def test_ignored_pixels_teach_nothing_and_parts_add_up(batch):
    logits, masks = batch
    loss = cross_entropy(logits, masks)
    known = masks != 255
    whole = F.cross_entropy(logits, masks.long(), ignore_index=255) * known.sum() / known.numel()
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.permute(0, 2, 3, 1)[~known].any()
    parts = [cross_entropy(logits[i : i + 1], masks[i : i + 1]).item() for i in range(4)]
    assert loss.item() == pytest.approx(sum(parts) / 4, rel=1e-6)


@pytest.mark.parametrize("of", [cross_entropy, dice_loss])
def test_a_batch_without_a_known_pixel_has_no_loss_and_no_nan(batch, of):
    logits, masks = batch
    loss = of(logits, torch.full_like(masks, 255))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not gradient.any()


def test_dice_is_zero_where_all_is_right_and_one_where_nothing_is(batch):
    masks = batch[1]
    right = F.one_hot(torch.where(masks == 255, 0, masks).long(), 3).permute(0, 3, 1, 2) * 50.0
    assert dice_loss(right, masks).item() == pytest.approx(0, abs=1e-6)
    wrong = right.roll(1, 1)
    assert dice_loss(wrong, masks).item() == pytest.approx(3 / 4, abs=1e-5), "one of the four images has no known pixel"


def test_dice_counts_classes_of_an_image_alike():
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, 0, 0] = 1
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 50.0  # all is said to be of class 0
    assert dice_loss(logits, masks).item() == pytest.approx((1 - 2 * 15 / 31 + 1) / 2, abs=1e-5)


def test_balanced_weights_have_a_mean_of_one_over_the_pixels():
    counts = torch.tensor([90, 10, 0])
    weights = balanced_pixel_weights(counts)
    assert weights.tolist() == pytest.approx([100 / 180, 5.0, 0.0])
    assert (weights * counts).sum().item() == pytest.approx(100)
