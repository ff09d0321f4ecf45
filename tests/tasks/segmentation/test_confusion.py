"""mIoU and its kin: one count over a whole set, equal to a plain one in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from peftbench.tasks.segmentation.confusion import Confusion, absent
from peftbench.tasks.segmentation.task import labels_of

IGNORED = 255


def counted(predictions, truths, classes):
    """The figures as a loop counts them."""
    overlaps, accuracies, right, known = {}, [], 0, 0
    for c in range(classes):
        both = either = there = 0
        for predicted, truth in zip(predictions, truths, strict=True):
            seen = truth != IGNORED
            both += ((predicted == c) & (truth == c) & seen).sum()
            either += (((predicted == c) | (truth == c)) & seen).sum()
            there += ((truth == c) & seen).sum()
        if either:
            overlaps[c] = both / either
        if there:
            accuracies.append(both / there)
        right, known = right + both, known + there
    return {
        "mIoU": np.mean(list(overlaps.values())) if overlaps else 0.0,
        "mean_accuracy": np.mean(accuracies) if accuracies else 0.0,
        "pixel_accuracy": right / known if known else 0.0,
        **{f"IoU/{c}": value for c, value in overlaps.items()},
    }


@settings(max_examples=30)
@given(st.data())
def test_figures_are_a_plain_count_whatever_the_sizes_and_the_order(data):
    classes = data.draw(st.integers(2, 5))
    seed = data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    present = rng.permutation(classes)[: data.draw(st.integers(1, classes))]
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4))
    truths = [rng.choice([*present, IGNORED], size).astype(np.uint8) for size in sizes]
    predictions = [rng.choice(present, size).astype(np.uint8) for size in sizes]
    metric = Confusion([str(c) for c in range(classes)])
    for of in np.array_split(np.arange(len(sizes)), data.draw(st.integers(1, len(sizes)))):
        metric.update([torch.from_numpy(predictions[i]) for i in of], [torch.from_numpy(truths[i]) for i in of])
    measured = {name: value.item() for name, value in metric.compute().items()}
    assert measured == pytest.approx(counted(predictions, truths, classes), abs=1e-12)
    without = [str(c) for c in range(classes) if f"IoU/{c}" not in measured]
    assert absent(metric.matrix, metric.names) == without


def eroded(mask, reach):
    """What is left of a bool mask that is eroded so often by 3 x 3, inside a frame without it."""
    for _ in range(reach):
        framed = np.pad(mask, 1)
        shifted = [framed[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        mask = np.logical_and.reduce(shifted)
    return mask


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.tuples(st.integers(1, 24), st.integers(1, 24)), st.sampled_from([0.02, 0.1, 0.3]))
def test_boundary_iou_is_that_of_each_class_less_what_erosion_leaves(seed, size, ratio):
    rng = np.random.default_rng(seed)
    truths, predictions = (
        [np.kron(rng.choice([0, 1, 3, IGNORED], (3, 3), p=p), np.ones((8, 8)))[: size[0], : size[1]] for _ in range(2)]
        for p in ([0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.3, 0])
    )
    reach = max(round(ratio * np.hypot(*size)), 1)
    both, either = np.zeros(4), np.zeros(4)
    for predicted, truth in zip(predictions, truths, strict=True):
        known = np.where(truth == IGNORED, IGNORED, predicted)
        for c in range(4):
            ours, theirs = ((mask == c) & ~eroded(mask == c, reach) for mask in (known, truth))
            both[c] += (ours & theirs).sum()
            either[c] += (ours | theirs).sum()
    metric = Confusion(("a", "b", "c", "d"), ratio)
    metric.update(*([torch.from_numpy(m.astype(np.uint8)) for m in masks] for masks in (predictions, truths)))
    figures = {n: v.item() for n, v in metric.compute().items() if n.startswith("boundary")}
    expected = {f"boundary_IoU/{n}": both[i] / either[i] for i, n in enumerate("abcd") if either[i]}
    mean = np.mean(list(expected.values())) if expected else 0.0
    assert figures == pytest.approx({"boundary_mIoU": mean, **expected})


def test_it_is_torchmetrics_macro_average_and_no_mean_over_images():
    g = torch.Generator().manual_seed(0)
    predictions, truths = (torch.randint(0, 3, (2, 8, 8), generator=g, dtype=torch.uint8) for _ in range(2))
    truths[0, 0], truths[1, 1:] = 1, IGNORED
    metric = Confusion(("a", "b", "c"))
    metric.update(list(predictions), list(truths))
    theirs = MulticlassJaccardIndex(3, ignore_index=IGNORED)(predictions.long(), truths.long())
    assert metric.compute()["mIoU"].item() == pytest.approx(theirs.item())
    alone = []
    for one in range(2):
        metric.reset()
        metric.update(list(predictions[one : one + 1]), list(truths[one : one + 1]))
        alone.append(metric.compute()["mIoU"].item())
    assert np.mean(alone) != pytest.approx(theirs.item(), abs=1e-3)


def test_its_memory_does_not_grow_with_the_images():
    metric = Confusion([str(c) for c in range(150)])
    mask = torch.zeros(16, 16, dtype=torch.uint8)
    for _ in range(50):
        metric.update([mask], [mask])
    assert sum(t.numel() for t in metric.metric_state.values()) == 150 * 150


def test_logits_are_up_sampled_to_the_image_before_a_class_is_chosen():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, :, 0] = 2.0
    logits[0, 0, :, 1] = 1.0
    labels = labels_of(logits, (5, 7))
    assert labels.shape == (5, 7)
    assert labels.dtype == torch.uint8
    # between a lead of 2 and one of -1 the border lies nearer to the second
    assert labels[0].tolist() == [1, 1, 1, 1, 0, 0, 0]
