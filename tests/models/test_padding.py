"""Padded batches: an image's frozen taps have the same bits whatever batch it is in."""

from __future__ import annotations

import pytest
import torch

from peftbench.models.joint import JointModel
from support.side import batch, make


@pytest.mark.parametrize("joint", [False, True])
def test_taps_do_not_depend_on_the_batch_while_batches_are_padded(joint):
    first = make("linear", "vit")
    model = JointModel([first]) if joint else first
    images, _ = batch(first, 8)
    with model.padded_batches():
        whole = model.frozen(images)
        assert model.multiple == 8
        for n in (1, 3, 5):
            for tap, part in zip(whole, model.frozen(images[:n]), strict=True):
                assert torch.equal(tap[:n], part), n
    assert model.multiple == 1


def test_padding_ends_with_its_block_also_when_that_fails():
    model = make("linear", "vit")
    with pytest.raises(RuntimeError, match="stopped"), model.padded_batches():
        raise RuntimeError("stopped")
    assert model.multiple == 1
