"""`page.html` of a finished run: its record, and what it predicts for the images of its own data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from peftbench.common.amounts import agreeing, plural
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.readable_names import HANDLER
from peftbench.common.regular_files import open_text
from peftbench.common.world import world_of
from peftbench.config import Config
from peftbench.config.repeating import repeating_words
from peftbench.data.thumbnails import data_uri, is_tiny
from peftbench.results import Record
from peftbench.results.page_parts import PagePart, Picture
from peftbench.results.per_image import read_right, stamped
from peftbench.results.run_page import FILE, MARK, run_page
from peftbench.runs.data_sets import load_splits
from peftbench.tasks.run_pages import Explained, RunPage, Seen
from peftbench.tuned.finished_run import open_run
from peftbench.tuned.heat_maps import heat_maps, why_no_maps
from peftbench.tuned.load import Tuned, choose_device, load
from peftbench.tuned.looked_at import predicted
from peftbench.tuned.run_folder import read_finished

SECONDS = 10.0
"""For predictions, unless all images are asked for: the page of a run should not take long beside the run."""

Watch = Callable[[int, int], None]


def write_page(
    folder: Path,
    record: Record,
    config_dir: str | Path | None = None,
    every: bool = False,
    device: str = "auto",
    watch: Watch = lambda done, of: None,
) -> Path:
    """Writes the page of a run into its folder and returns where it is.

    Where the run is not complete, or its data or weights are gone, the page shows what the record holds, and says so.

    Args:
        folder: the run's.
        record: its record.
        config_dir: a folder with the YAML of a method of your own.
        every: whether all images are looked at, however long that takes.
        device: where it predicts.
        watch: called with the images done and of how many.

    Raises:
        UserError: a file of that name is there that is no such page, or it cannot be written.
    """
    path = folder / FILE
    _refuse_other_file(path)
    parts: list[PagePart] = []
    notes: list[str] = []
    command: list[str] = []
    try:
        config = read_finished(folder, config_dir)[2]
        command = repeating_words(config)
        parts = _parts(folder, record, config, config_dir, every, choose_device(device), watch)
    except UserError as problem:
        notes.append(f"This page shows what the record holds, and no predictions: {problem}")
    content = run_page(record, parts, command, notes)
    with replacing(path, lambda why: f"{path}: cannot be written ({why}).") as part:
        part.write_text(content, encoding="utf-8", errors=HANDLER)
    return path


def write_asked_pages(configs: Sequence[Config], records: Sequence[Record], tell: Callable[[str], None]) -> None:
    """Writes the page of every complete run whose config asks for one by `page=true`, and tells where it is.

    A run that was there may have been carried out without.

    A page that cannot be written takes nothing from the run: it is told why. That of a run which was there already
    stays as it is, and is told too. Of several processes, which torchrun or srun started, none writes it: the others
    would be gone.
    """
    for config, record in zip(configs, records, strict=True):
        if record.status != "complete" or not config.page or not record.folder:
            continue
        folder = Path(record.folder)
        world = world_of(config.trainer.devices, config.trainer.nodes)
        if world is not None and world.size > 1:
            if world.rank == 0:
                tell(f"page=true: several processes write no page; give peftbench report run={folder}.")
            continue
        try:
            if record.was_there and (folder / FILE).exists():
                _refuse_other_file(folder / FILE)
                tell(f"page: {folder / FILE}")
            else:
                tell(f"page: {write_page(folder, record)}")
        except Exception as problem:
            tell(f"page=true: {folder / FILE} is not written ({first_sentence(problem)}); the run is complete.")


def _refuse_other_file(path: Path) -> None:
    try:
        with open_text(path, errors="replace") as file:
            other = not file.read(len(MARK)).startswith(MARK)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise UserError(f"{path}: cannot be written ({problem.strerror}).") from None
    if other:
        raise UserError(f"{path}: is there and is no page of a run; give it another name.")


def _parts(
    folder: Path,
    record: Record,
    config: Config,
    config_dir: str | Path | None,
    every: bool,
    device: torch.device,
    watch: Watch,
) -> list[PagePart]:
    """What the task shows of the predictions, and where the model looks. Raises UserError where something is gone."""
    splits = load_splits(config)
    roles = dict(zip(("train", "val", "test"), splits.roles(config.data.stage), strict=True))
    role = "test" if roles["test"] is not None else "val"
    whole = roles[role]
    if whole is None:
        raise UserError(f"data={config.data.name} has neither test nor validation images.")
    tuned = load(open_run(folder, config_dir), merge=False).to(device)
    seen_split, predictions, damaged = predicted(tuned, whole, float("inf") if every else SECONDS, watch)
    seen = Seen(seen_split, role, tuned.classes, predictions, folder, record.metrics, config.data.range)
    page: RunPage = tuned.model.task.page()
    parts = page.parts(seen)
    if parts:
        parts[0].notes[:0] = _looked_at(seen, len(whole), damaged, record, page)
        parts += _maps(tuned, seen, page.explained(seen))
    return parts


def _looked_at(seen: Seen, images: int, damaged: int, record: Record, page: RunPage) -> list[str]:
    """Which images the figures are of, and whether they are what they were when the run was tested."""
    what = {"test": "test image", "val": "validation image"}[seen.role]
    notes = [f"Figures and pictures from here on are of all {plural(images, what)}."]
    if len(seen.split) + damaged < images:
        notes = [
            f"Figures and pictures from here on are of {len(seen.split):,} of {plural(images, what)}, spread over all: "
            f"the page takes about {SECONDS:.0f} s to look at them (all=true looks at every one)."
        ]
    if damaged:
        notes.append(f"{plural(damaged, 'image')} cannot be read and {agreeing(damaged)} left out.")
    recorded = ((record.stamps.get("data") or {}).get("images") or {}).get(seen.role)
    if isinstance(recorded, int) and recorded not in (images, images - damaged):
        batches = (record.config.get("trainer") or {}).get("max_batches")
        is_cut = batches and recorded < images
        why = f"trainer.max_batches={batches} cut it" if is_cut else "the data have changed since"
        notes.append(f"The run was measured on {plural(recorded, what)}: {why}.")
    stamp, right = stamped(record.stamps), page.right(seen)
    before = read_right(str(seen.folder), stamp) if stamp is not None and seen.role == "test" else None
    if before is not None and right is not None and len(right) == len(before):
        differing = int(np.count_nonzero(before != right))
        if differing:
            notes.append(
                f"For {plural(differing, 'image')} the answer is now right and was wrong in the run's own test, or the "
                f"reverse: the data have changed since, or this machine rounds differently."
            )
    return notes


def _maps(tuned: Tuned, seen: Seen, explained: Sequence[Explained]) -> list[PagePart]:
    """A section with what raised the class that was said, for a few images, or why there is none."""
    if not explained:
        return []
    part = PagePart("Where the model looks")
    if why := why_no_maps(tuned):
        return [PagePart(part.title, [why])]
    rows = [one.index for one in explained]
    inputs = tuned.transform.plain().over(seen.split.take(rows), "skip", 0.0, lambda done, of: None)
    if len(inputs.split) < len(rows):
        return [PagePart(part.title, ["An image is gone, so there are no maps."])]
    pixels = inputs.pictures(torch.arange(len(rows)))
    maps = heat_maps(tuned, pixels, [one.output for one in explained])
    part.notes.append(
        "Grad-CAM: the input of the model, and the same with what raised the class that it said. It shows what the "
        "class was read from, and is no proof of why."
    )
    for one, image, heat in zip(explained, pixels, maps, strict=True):
        shown = _side_by_side(image.permute(1, 2, 0).numpy(), heat.numpy())
        part.pictures.append(
            Picture(data_uri(shown), str(seen.split.names[one.index]), one.told, is_tiny(shown), wide=True)
        )
    return [part]


def _side_by_side(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """The input (H, W, 3) in uint8, and it once more in gray under a warm colour where `heat` (H, W) is high."""
    gray = pixels.mean(2, keepdims=True) * 0.75
    warm = np.array([255.0, 90.0, 0.0])
    under = gray + (warm - gray) * (0.85 * heat[..., None])
    both = np.concatenate([pixels, under.round().clip(0, 255).astype(np.uint8)], axis=1)
    image = Image.fromarray(both)
    image.thumbnail((448, 224), Image.Resampling.LANCZOS)
    return image
