"""Build the small photo set that the package ships (maintainers only; users never need this).

Takes 25 visually clear classes of a Caltech 101 folder in VTAB list layout (classes.txt, one list of
training images, one of test images, sources.csv), the first 10 images a class of each list, makes the shorter
side 128 px and writes them, the credits and the licence note under ``src/peftbench/data/photos``. The result
is the same on every run with the same Pillow.

    python scripts/make_photos.py --data ../shared/data/caltech101-vtab1k-like
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections import defaultdict
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LISTS = {"train": "train800val200.txt", "test": "test.txt"}
PER_CLASS = 10
SHORT_SIDE = 128
QUALITY = 85
MAX_BYTES = 5_000_000
# Clear and varied; no class twice (so no Faces, no *_head); stop_sign has one picture in both train and test.
CLASSES = (
    "Leopards",
    "Motorbikes",
    "accordion",
    "airplanes",
    "bonsai",
    "butterfly",
    "car_side",
    "chair",
    "dalmatian",
    "dolphin",
    "flamingo",
    "grand_piano",
    "hawksbill",
    "hedgehog",
    "helicopter",
    "kangaroo",
    "ketch",
    "laptop",
    "lotus",
    "panda",
    "rooster",
    "soccer_ball",
    "trilobite",
    "umbrella",
    "watch",
)
LICENCE = f"""\
Photos from Caltech 101 (Fei-Fei Li, Marco Andreeto, Marc'Aurelio Ranzato, Pietro Perona; 2022, CaltechDATA,
https://doi.org/10.22002/D1.20086), licensed under the Creative Commons Attribution 4.0 International licence
(CC BY 4.0, https://creativecommons.org/licenses/by/4.0/).

Changed: {len(CLASSES)} of the 101 classes, {PER_CLASS} training and {PER_CLASS} test images of each;
greyscale images converted to RGB; shorter side resized to {SHORT_SIDE} px (Lanczos, aspect ratio kept);
re-encoded as JPEG, quality {QUALITY}. The split is this project's own.
CREDITS.csv names the original of every file.
"""


def read_list(path: Path, classes: list[str]) -> dict[str, list[str]]:
    """Image paths of each class, in the order of the list."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        name, index = line.rsplit(" ", 1)
        by_class[classes[int(index)]].append(name)
    return by_class


def shrink(source: Path, target: Path) -> None:
    """Write ``source`` with its shorter side at SHORT_SIDE px."""
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    size = (max(SHORT_SIDE, round(image.width * scale)), max(SHORT_SIDE, round(image.height * scale)))
    target.parent.mkdir(parents=True, exist_ok=True)
    image.resize(size, Image.Resampling.LANCZOS).save(target, quality=QUALITY, optimize=True)


def build(data: Path, out: Path) -> int:
    """Write the whole set to ``out``; returns its size in bytes."""
    classes = (data / "classes.txt").read_text(encoding="utf-8").split()
    with (data / "sources.csv").open(encoding="utf-8", newline="") as file:
        originals = {row["file"]: row["original"] for row in csv.DictReader(file)}
    for split in LISTS:  # leftovers of an older class list must not stay
        shutil.rmtree(out / split, ignore_errors=True)
    credits = []
    for split, list_name in LISTS.items():
        by_class = read_list(data / list_name, classes)
        for name in CLASSES:
            chosen = by_class[name][:PER_CLASS]
            if len(chosen) < PER_CLASS:
                raise SystemExit(f"{list_name} has only {len(chosen)} images of {name}, {PER_CLASS} wanted")
            for image in chosen:
                target = f"{split}/{name}/{Path(originals[image]).stem}.jpg"
                shrink(data / image, out / target)
                credits.append((target, originals[image]))
    with (out / "CREDITS.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "original"))
        writer.writerows(sorted(credits))
    (out / "LICENCE.txt").write_text(LICENCE, encoding="utf-8")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/caltech101-vtab1k-like")
    parser.add_argument("--out", type=Path, default=ROOT / "src/peftbench/data/photos")
    args = parser.parse_args()
    size = build(args.data, args.out)
    if size > MAX_BYTES:
        raise SystemExit(f"{args.out} holds {size} bytes, more than {MAX_BYTES}")
    print(f"{2 * PER_CLASS * len(CLASSES)} photos, {size} bytes in {args.out}")


if __name__ == "__main__":
    main()
