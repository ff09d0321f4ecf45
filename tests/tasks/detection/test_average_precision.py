"""COCO's AP against pycocotools, in one process and in two."""

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

from peftbench.common.errors import UserError
from peftbench.tasks.detection.result_files import write_results
from support.average_precision import CATEGORIES, CLASSES, boxes, case, measured, share

NAMES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR"]
NAMES += ["AR_small", "AR_medium", "AR_large"]
OF_TABLE = {"AR_1", "AR_10", "AR_small", "AR_medium", "AR_large"}  # which a run does not measure


def peer(results, targets):
    """What pycocotools says of rows of COCO's result JSON, with all its -1."""
    true, number = COCO(), itertools.count(1)
    true.dataset = {
        "info": {},
        "images": [{"id": int(t["image_id"])} for t in targets],
        "categories": [{"id": c} for c in CATEGORIES],
        "annotations": [
            {"id": next(number), "image_id": int(t["image_id"]), "category_id": CATEGORIES[label], "iscrowd": crowd}
            | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
            for t in targets
            for (x1, y1, x2, y2), label, crowd, area in zip(
                *(t[f"true_{n}"].tolist() for n in ("boxes", "labels", "crowd", "area")), strict=True
            )
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        true.createIndex()
        found = COCO()
        found.dataset = true.dataset | {"annotations": []}
        found.createIndex()
        evaluation = COCOeval(true, true.loadRes(results) if results else found, "bbox")  # it loads no empty results
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(NAMES, evaluation.stats, strict=True))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return values | {
        f"AP/{n}": precision[:, :, evaluation.params.catIds.index(c)].mean()
        for n, c in zip(CLASSES, CATEGORIES, strict=True)
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_it_equals_pycocotools(seed, images):
    predictions, targets = case(seed, images)
    metric = measured(predictions, targets)
    found, results = metric.compute(), metric.results()
    assert len(results) == sum(len(p["scores"]) for p in predictions)
    if not any(len(t["true_labels"]) for t in targets):
        assert found.keys() == {"AP"}
        assert found["AP"].isnan()
        assert metric.table() == {}
    else:
        expected = {n: v for n, v in peer(json.loads(json.dumps(results)), targets).items() if v > -1}
        if "AP" not in expected:  # crowds alone
            assert found.pop("AP").isnan()
        table = {n: v for n, v in metric.table().items() if v == v}
        assert table == pytest.approx(expected, abs=1e-6)
        assert {n: v.item() for n, v in found.items()} == pytest.approx(
            {n: v for n, v in expected.items() if n not in OF_TABLE}, abs=1e-6
        )


def test_areas_are_those_of_the_annotations():
    predictions, targets = case(1, 1)
    true = torch.tensor([[0.0, 0, 100, 100]])
    targets[0] |= {"true_boxes": true, "true_labels": torch.tensor([1]), "true_crowd": torch.tensor([0])}
    predictions[0] = {"boxes": true, "scores": torch.tensor([0.5]), "labels": torch.tensor([1])}
    for area, name in ((0.0, "AP_small"), (900.0, "AP_small"), (2000.0, "AP_medium"), (1e4, "AP_large")):
        targets[0]["true_area"] = torch.tensor([area])
        assert measured(predictions, targets).compute().keys() == {"AP", "AP50", "AP75", "AR", "AP/car", name}


def test_an_image_counts_once_with_its_best_hundred_finite_detections():
    predictions, targets = case(2)
    expected = measured(predictions, targets).compute()
    assert measured(predictions + predictions[:3], targets + targets[:3]).compute() == expected
    for p in predictions:
        p["boxes"] = torch.cat([p["boxes"], torch.full((1, 4), torch.nan)])
        p["scores"], p["labels"] = (
            torch.cat([p["scores"], torch.ones(1)]),
            torch.cat([p["labels"], torch.ones(1).long()]),
        )
    assert measured(predictions, targets).compute() == expected

    predictions = [{"boxes": boxes(np.random.default_rng(0), 250), "labels": torch.arange(250) % 4}]
    predictions[0]["scores"] = torch.rand(250, generator=torch.Generator().manual_seed(0))
    results = measured(predictions, targets[:1]).results()
    assert len(results) == 100
    assert min(r["score"] for r in results) == predictions[0]["scores"].topk(100)[0][-1].item()


def test_results_are_written_as_coco_reads_them(tmp_path):
    metric = measured(*case(4))
    write_results(metric.results(), tmp_path / "runs" / "detections.json")
    assert json.loads((tmp_path / "runs" / "detections.json").read_text()) == metric.results()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["detections.json"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"detections\.json: could not be written"):
        write_results([], tmp_path / "file" / "detections.json")


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    predictions, targets = case(3)
    torch.multiprocessing.spawn(share, (str(tmp_path), predictions, targets, 9), nprocs=2)
    nothing = [{k: v[:0] for k, v in p.items()} for p in predictions]
    for name, p in (("some", predictions), ("nothing", nothing), ("alone", predictions)):
        metric = measured(p, targets)
        for rank in range(2):
            found, results = torch.load(f"{tmp_path}/{name}{rank}", weights_only=True)
            assert found == pytest.approx({n: v.item() for n, v in metric.compute().items()}, abs=1e-9)
            assert results == metric.results()
