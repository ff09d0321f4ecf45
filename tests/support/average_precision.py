"""Random detections and objects, and their AP in one process or one of several."""

import numpy as np
import torch

from peftbench.data.segment_forms import encoded
from peftbench.tasks.detection.average_precision import BoxAP
from peftbench.tasks.detection.mask_precision import MaskAP

CATEGORIES = [44, 3, 90, 7]  # with gaps, and not in order
CLASSES = ["bottle", "car", "toothbrush", "train"]


def boxes(rng, count):
    """Whole pixels, so that overlaps of exactly 0.5 or 0.6 occur."""
    corner, side = rng.integers(0, 60, (count, 2)), rng.integers(1, 130, (count, 2))
    return torch.tensor(np.concatenate([corner, corner + side], 1), dtype=torch.float32).reshape(-1, 4)


def case(seed, images=12):
    """Predictions and targets of some images in a mixed order."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for image in rng.permutation(images) * 7 + 3:
        truths = int(rng.integers(0, 6))
        true = boxes(rng, truths)
        labels = torch.tensor(rng.integers(0, 3, truths))  # the last class has no truth
        side = true[:, 2:] - true[:, :2]
        targets.append(
            {
                "image_id": torch.tensor(image),
                "true_boxes": true,
                "true_labels": labels,
                "true_crowd": torch.tensor((rng.random(truths) < 0.2).astype(np.int64)),
                # that of a mask: less than the box's, for some nothing
                "true_area": side.prod(1) * torch.tensor(rng.choice([0, 0.3, 1], truths)),
            }
        )
        near = true[torch.tensor(rng.integers(0, max(truths, 1), 2 * truths))]
        near = near + torch.tensor(rng.integers(-3, 4, near.shape))
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        guessed = torch.cat([near, boxes(rng, int(rng.integers(0, 4)))]) if rng.random() > 0.2 else near[:0]
        predictions.append(
            {
                "boxes": guessed,
                "scores": torch.tensor(rng.choice([0.9, 0.7, 0.25, 0.1], len(guessed)), dtype=torch.float32),
                "labels": torch.tensor(rng.integers(0, 4, len(guessed))),
            }
        )
    return predictions, targets


def measured(predictions, targets, batch=5):
    metric = BoxAP(CLASSES, CATEGORIES)
    for at in range(0, len(targets), batch):
        metric.update(predictions[at : at + batch], targets[at : at + batch])
    return metric


def share(rank, folder, predictions, targets, cut):
    """One of two processes: the first has the images up to `cut`, the second the others, and one of the first's."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(0, cut) if rank == 0 else slice(cut - 1, None)
    for name, p in (("some", predictions), ("nothing", [{k: v[:0] for k, v in p.items()} for p in predictions])):
        metric = measured(p[mine], targets[mine], batch=2 + rank)
        torch.save([{n: v.item() for n, v in metric.compute().items()}, metric.results()], f"{folder}/{name}{rank}")
    none = measured([], []) if rank else measured(predictions, targets)
    torch.save([{n: v.item() for n, v in none.compute().items()}, none.results()], f"{folder}/alone{rank}")
    torch.distributed.destroy_process_group()


SIDE = 200  # of an image with masks


def with_masks(predictions, targets, seed=0):
    """The same with masks: of each box the rectangle without a cut corner."""
    rng = np.random.default_rng(seed)
    masked = [p | {"segments": [_counts(box, rng) for box in p["boxes"].tolist()]} for p in predictions]
    true = [
        t
        | {
            "original": (SIDE, SIDE),
            "true_segments": [{"size": [SIDE, SIDE], "counts": _counts(box, rng)} for box in t["true_boxes"].tolist()],
        }
        for t in targets
    ]
    return masked, true


def _counts(box, rng):
    x1, y1, x2, y2 = (int(max(side, 0)) for side in box)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[y1:y2, x1:x2] = 1
    cut = rng.uniform(0, 0.7, 2)
    mask[y1 : y1 + int((y2 - y1) * cut[0]), x1 : x1 + int((x2 - x1) * cut[1])] = 0
    return encoded(mask)


def masks_measured(predictions, targets, batch=5):
    metric = MaskAP(CLASSES, CATEGORIES)
    for at in range(0, len(targets), batch):
        metric.update(predictions[at : at + batch], targets[at : at + batch])
    return metric


def share_masks(rank, folder, predictions, targets, cut):
    """As `share`, of masks; in a second round one process has no images."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(0, cut) if rank == 0 else slice(cut - 1, None)
    several = masks_measured(predictions[mine], targets[mine], batch=2 + rank)
    alone = masks_measured([], []) if rank else masks_measured(predictions, targets)
    for name, metric in (("both", several), ("alone", alone)):
        found = {n: v.item() for n, v in metric.compute().items()}
        torch.save([found, metric.results()], f"{folder}/{name}{rank}")
    torch.distributed.destroy_process_group()
