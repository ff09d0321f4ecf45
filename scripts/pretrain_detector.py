"""Pretrain the small detector that the package ships (maintainers only; users never need this).

Faster R-CNN on `resnet_nano` learns to find objects of Caltech 101's 101 classes on textured canvases: one to four
photographs of a zip (``<class>/<image>.jpg``) are cut out, scaled and pasted on parts of scikit-learn's two sample
photographs. One in ten photographs of each class is kept for the canvases that the detector is tested on. The canvases
are written once, as images and COCO's JSON; the training is a run of peftbench like any other:

    python scripts/pretrain_detector.py --work detector_cache

Training that was stopped resumes when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from pretrain_nano import LICENCE, ROOT, read_images
from scipy import ndimage

import peftbench
from peftbench.common.atomic_files import replacing
from peftbench.data.digit_scenes import overlap, photographs, texture
from peftbench.tasks.detection.saving import save_detector
from peftbench.tuned.load import Tuned

NAME = "resnet_nano_fasterrcnn"
WEIGHTS = ROOT / "src/peftbench/tasks/detection/weights"
CANVAS, SIDES, MOST = 128, (24, 96), 4  # pixels; of an object's longer side; objects of a canvas
OVERLAP = 0.2  # of the smaller of two boxes
HELD_OUT = 10  # one photograph in so many is not trained on
PLAIN = 0.9  # share of a photograph's border that has one colour: what differs from it is the object
CLOSE, APART = 25.0, 40.0  # grey levels from that colour: still of it, and not of it
MAX_FILE = 6_500_000
TASK = ["task.width=64", "task.hidden=256", "task.rois=32"]  # widths as configs/data/digits_det.yaml has them


def cut_out(photo: Image.Image) -> Image.Image:
    """RGBA: the object where its background is plain, else the ellipse that fills the photograph; cut to its box."""
    pixels = np.asarray(photo, dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0)
    mask = None
    if (np.abs(border - colour).max(1) < CLOSE).mean() > PLAIN:
        found = ndimage.binary_fill_holes(np.abs(pixels - colour).max(2) > APART)
        found = ndimage.binary_opening(found)
        if 0.1 < found.mean() < 0.95:
            mask = Image.fromarray(found.astype(np.uint8) * 255)
    if mask is None:
        mask = Image.new("L", photo.size)
        ImageDraw.Draw(mask).ellipse((0, 0, photo.width - 1, photo.height - 1), fill=255)
    whole = photo.copy()
    whole.putalpha(mask)
    return whole.crop(mask.getbbox())


def canvas(
    rng: np.random.Generator, objects: list[Image.Image], labels: list[int], textures: list[np.ndarray]
) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int, int]]]]:
    """A canvas, and the label and box (x1, y1, x2, y2) of each object on it."""
    image = Image.fromarray(texture(rng, textures, CANVAS).clip(0, 255).astype(np.uint8))
    found: list[tuple[int, tuple[int, int, int, int]]] = []
    wanted = int(rng.integers(1, MOST + 1))
    for _ in range(20):
        if len(found) == wanted:
            break
        at = int(rng.integers(len(objects)))
        scale = float(np.exp(rng.uniform(*np.log(SIDES)))) / max(objects[at].size)
        width, height = (max(round(side * scale), 8) for side in objects[at].size)
        left, top = int(rng.integers(CANVAS - width + 1)), int(rng.integers(CANVAS - height + 1))
        box = (left, top, left + width, top + height)
        if any(overlap(box, other) > OVERLAP for _, other in found):
            continue
        piece = objects[at].resize((width, height), Image.Resampling.LANCZOS)
        image.paste(piece, (left, top), piece)
        found.append((labels[at], box))
    return image, found


def draw(data: Path, folder: Path, counts: dict[str, int], seed: int) -> None:
    """Writes the canvases and COCO's JSON of each role into the folder, where they are not there yet."""
    recipe = json.dumps({"data": digest(data), "counts": counts, "seed": seed})
    stamp = folder / "recipe.json"
    if stamp.is_file() and stamp.read_text() == recipe:
        return
    photos, labels, classes = read_images(data)
    objects = [cut_out(photo) for photo in photos]
    held_out = np.zeros(len(photos), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(photos))
    for label in range(len(classes)):
        members = order[np.array(labels)[order] == label]
        held_out[members[: max(len(members) // HELD_OUT, 1)]] = True
    textures = photographs()
    for number, (role, count) in enumerate(counts.items()):
        members = np.flatnonzero(held_out == (role == "val"))
        # Classes weigh by the root of their size, which is 8 to 770.
        weights = np.bincount(np.array(labels)[members])[np.array(labels)[members]] ** -0.5
        (folder / role).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for at in range(count):
            rng = np.random.default_rng([seed, number, at])
            chosen = rng.choice(members, 20, p=weights / weights.sum())
            image, found = canvas(rng, [objects[i] for i in chosen], [labels[i] for i in chosen], textures)
            image.save(folder / role / f"{at:06d}.jpg", quality=90)
            images.append({"id": at + 1, "file_name": f"{role}/{at:06d}.jpg", "width": CANVAS, "height": CANVAS})
            for label, (x1, y1, x2, y2) in found:
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                owner = {"id": len(annotations) + 1, "image_id": at + 1, "category_id": label + 1}
                annotations.append(owner | box)
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        content = {"categories": categories, "images": images, "annotations": annotations}
        (folder / f"{role}.json").write_text(json.dumps(content))
    stamp.write_text(recipe)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@torch.no_grad()
def average_precision(tuned: Tuned, folder: Path) -> dict[str, float]:
    """COCO's AP and AP50 on the canvases that were not trained on."""
    told = json.loads((folder / "val.json").read_text())
    metrics = tuned.model.task.metrics()
    boxes: dict[int, list[dict]] = {image["id"]: [] for image in told["images"]}
    for one in told["annotations"]:
        boxes[one["image_id"]].append(one)
    for image in told["images"]:
        given = boxes[image["id"]]
        corners = torch.tensor([one["bbox"] for one in given], dtype=torch.float32).view(-1, 4)
        corners[:, 2:] += corners[:, :2]
        target = {
            "true_boxes": corners,
            "true_labels": torch.tensor([one["category_id"] - 1 for one in given]),
            "true_crowd": torch.zeros(len(given), dtype=torch.int64),
            "true_area": torch.tensor([float(one["area"]) for one in given]),
            "image_id": torch.tensor(image["id"]),
        }
        metrics.update([tuned.detect(folder / image["file_name"])], [target])
    found = metrics.compute()
    return {key: round(float(found[key]), 4) for key in ("AP", "AP50")}


@torch.no_grad()
def halved(tuned: Tuned) -> None:
    """Rounds every number of the model to half precision, as the file holds it."""
    for name, tensor in tuned.model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
            if not tensor.isfinite().all():
                raise SystemExit(f"{name} does not fit float16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/caltech101-80px-pretrain.zip")
    parser.add_argument("--work", type=Path, default=Path("detector_cache"), help="for canvases and the run")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help=f"folder for {NAME}.safetensors")
    parser.add_argument("--canvases", type=int, default=4000, help="to train on")
    parser.add_argument("--test-canvases", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_flush_denormal(True)  # denormal numbers make CPU convolutions many times slower
    folder = (args.work / "canvases").resolve()
    draw(args.data, folder, {"train": args.canvases, "val": args.test_canvases}, args.seed)
    config = peftbench.compose(
        "method=full",
        "backbone=resnet_nano",
        "data=coco_folder",
        f"data.root={folder}",
        "data.train=train.json",
        "data.val=val.json",
        f"data.size=[{CANVAS},{CANVAS}]",
        "data.augment=flip",
        f"data.batch_size={args.batch}",
        "data.eval_batch_size=16",
        *TASK,
        f"optimizer.lr={args.lr}",
        "trainer.accelerator=cpu",
        "trainer.threads=1",
        "trainer.clip=5",
        f"trainer.epochs={args.epochs}",
        f"seed={args.seed}",
        f"output_dir={args.work / 'runs'}",
        "logger=none",
    )
    record = peftbench.run(config)
    if record.status != "complete":
        raise SystemExit(f"the run is {record.status}: {record.reason}")
    tuned = peftbench.load(args.work / "runs" / record.id)
    before = average_precision(tuned, folder)
    halved(tuned)
    after = average_precision(tuned, folder)
    print(f"held-out canvases: {before}, in half precision {after}")
    about = {
        "data": f"Caltech 101, {args.data.name}, sha256 {digest(args.data)}",
        "command": f"python scripts/pretrain_detector.py --canvases {args.canvases} --epochs {args.epochs} "
        f"--lr {args.lr:g} --batch {args.batch} --seed {args.seed}",
        "AP50": f"{after['AP50']:.4f}",
        "licence": f"{LICENCE}; textures from scikit-learn's sample photographs (CC BY 2.0)",
    }
    path = args.out / f"{NAME}.safetensors"
    with replacing(path) as part:
        save_detector(tuned.model.task, tuned.model.backbone, part, "fasterrcnn", half=True, about=about)
        if part.stat().st_size > MAX_FILE:
            raise SystemExit(f"{path} would have {part.stat().st_size} bytes, more than {MAX_FILE}")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
