"""COCO's AP of masks against pycocotools, in one process and in two, and its intervals."""

from __future__ import annotations

import contextlib
import io
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from peftbench.data.boxes import Objects
from peftbench.data.segment_forms import Segment
from peftbench.tasks.detection.mask_precision import SEGM
from peftbench.tasks.detection.resampled_precision import HEADLINE, mask_overlaps, matches, means
from support.average_precision import (
    CATEGORIES,
    CLASSES,
    SIDE,
    case,
    masks_measured,
    measured,
    share_masks,
    with_masks,
)

NAMES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR"]
NAMES += ["AR_small", "AR_medium", "AR_large"]


def peer(rows, targets):
    """What pycocotools says of the masks of COCO's result JSON, with all its -1."""
    true, number = COCO(), itertools.count(1)
    true.dataset = {
        "info": {},
        "images": [{"id": int(t["image_id"]), "height": SIDE, "width": SIDE} for t in targets],
        "categories": [{"id": c} for c in CATEGORIES],
        "annotations": [
            {"id": next(number), "image_id": int(t["image_id"]), "category_id": CATEGORIES[label], "iscrowd": crowd}
            | {"segmentation": segment, "area": area}
            for t in targets
            for segment, label, crowd, area in zip(
                t["true_segments"], *(t[f"true_{n}"].tolist() for n in ("labels", "crowd", "area")), strict=True
            )
        ],
    }
    masks = [{name: value for name, value in row.items() if name != "bbox"} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        true.createIndex()
        found = COCO()
        found.dataset = true.dataset | {"annotations": []}
        found.createIndex()
        evaluation = COCOeval(true, true.loadRes(masks) if masks else found, "segm")  # it loads no empty results
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: value for name, value in zip(NAMES, evaluation.stats, strict=True) if value > -1}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_masks_equal_pycocotools_and_boxes_stay_as_they_are(seed, images):
    predictions, targets = with_masks(*case(seed, images), seed % 100)
    metric = masks_measured(predictions, targets)
    table, rows = metric.table(), json.loads(json.dumps(metric.results()))
    of_boxes = {n: v for n, v in table.items() if not n.startswith(SEGM)}
    assert of_boxes == pytest.approx(measured(predictions, targets).table(), abs=0, nan_ok=True)
    if any(len(t["true_labels"]) for t in targets):
        of_masks = {n.removeprefix(SEGM): v for n, v in table.items() if n.startswith(SEGM) and v == v}
        expected = peer(rows, targets)
        assert {n: v for n, v in of_masks.items() if "/" not in n} == pytest.approx(expected, abs=1e-6)
    assert {*metric.compute()} >= {"AP", "segm_AP"}
    assert [row["bbox"] for row in rows] == [row["bbox"] for row in measured(predictions, targets).results()]


def test_an_image_that_comes_twice_counts_once_with_its_own_masks():
    predictions, targets = with_masks(*case(2))
    once = masks_measured(predictions, targets)
    again = masks_measured(predictions[3:5] + predictions, targets[3:5] + targets)
    assert again.compute() == once.compute()
    assert again.results() == once.results()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_images_that_are_drawn_once_each_have_the_figures_of_the_set(seed, images):
    """The matches that intervals are made of, against faster-coco-eval. No two scores of an image are equal."""
    predictions, targets = case(seed, images)
    for i, one in enumerate(predictions):
        one["scores"] = one["scores"] + 1e-3 * (torch.arange(len(one["scores"])) * images + i)
    predictions, targets = with_masks(predictions, targets, seed % 100)
    truths = [
        Objects(
            id=int(t["image_id"]),
            size=(SIDE, SIDE),
            boxes=t["true_boxes"].numpy(),
            labels=t["true_labels"].numpy(),
            crowd=t["true_crowd"].numpy().astype(bool),
            area=t["true_area"].numpy(),
            segments=tuple(Segment(counts=form["counts"]) for form in t["true_segments"]),
        )
        for t in targets
    ]
    table = masks_measured(predictions, targets).table()
    got = means(matches(predictions, truths, len(CLASSES), mask_overlaps), np.ones(images, dtype=np.int64))
    for name in HEADLINE:
        assert got[name] == pytest.approx(table.get(SEGM + name, float("nan")), abs=1e-9, nan_ok=True)


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    predictions, targets = with_masks(*case(3))
    torch.multiprocessing.spawn(share_masks, (str(tmp_path), predictions, targets, 9), nprocs=2)
    metric = masks_measured(predictions, targets)
    for name, rank in itertools.product(("both", "alone"), range(2)):
        found, rows = torch.load(f"{tmp_path}/{name}{rank}", weights_only=True)
        assert found == pytest.approx({n: v.item() for n, v in metric.compute().items()}, abs=1e-9, nan_ok=True)
        assert rows == metric.results()
