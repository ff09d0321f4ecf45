"""What `peftbench predict draw=…` draws for a detector and for segmentation, on images that no run has seen."""

from __future__ import annotations

import shutil
from pathlib import Path

from pages import save
from PIL import Image

import runs
from peftbench.cli.main import main
from peftbench.data.digits_det import DigitsDet

ACROSS, SIDE, GAP = 4, 256, 8


def detections(name: str, work: Path) -> None:
    """`detections.png`: boxes on eight canvases."""
    images, drawn = _predicted("detection", work, 8, "score=0.7")
    _sheet([Image.open(drawn / image.name) for image in images], name)


def masks(name: str, work: Path) -> None:
    """`masks.png`: four canvases, and below each the class of each pixel."""
    images, drawn = _predicted("masks", work, 4)
    below = [Image.open(next(drawn.glob(f"{image.stem}.*"))) for image in images]
    _sheet([*map(Image.open, images), *below], name)


def _predicted(group: str, work: Path, count: int, *words: str) -> tuple[list[Path], Path]:
    """New canvases, and the folder of what the run of a group draws on them."""
    [folder] = runs.folders(group, work)
    place = work / f"{group}-images"
    shutil.rmtree(place, ignore_errors=True)
    (place / "new").mkdir(parents=True)
    for file in DigitsDet(images=(1, 1, count), drawing_seed=7).load().test.images:
        Image.open(file).save(place / "new" / f"{file.stem}.png")
    out = place / ("found.json" if group == "detection" else "masks")
    drawn = place / "drawn"
    if main(["predict", f"run={folder}", f"images={place / 'new'}", f"draw={drawn}", f"out={out}", *words]) != 0:
        raise SystemExit(f"pictures: nothing was drawn for {group}")
    return sorted((place / "new").iterdir()), drawn


def _sheet(images: list[Image.Image], name: str) -> None:
    down = -(-len(images) // ACROSS)
    size = tuple(n * SIDE + (n - 1) * GAP for n in (ACROSS, down))
    sheet = Image.new("RGB", size, "white")
    for number, image in enumerate(images):
        at = (number % ACROSS * (SIDE + GAP), number // ACROSS * (SIDE + GAP))
        sheet.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), at)
    save(sheet, name)
