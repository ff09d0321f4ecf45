"""What the folder of a finished run says of itself, read without torch; and where an export of it goes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from peftbench import config
from peftbench.common.errors import UserError
from peftbench.common.leftovers import remove_dead_parts
from peftbench.config import Config
from peftbench.config.given import described
from peftbench.results import Record, read_complete
from peftbench.results.record import FILE as RECORD

CONFIG = "config.yaml"
PLACES = {
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
    "peft": "adapter",
    "openvino": "model.xml",
    "executorch": "model.pte",
    "coreml": "model.mlpackage",
}
"""What an export of each format is called in a run's folder: a file, or for peft and coreml a folder."""
FOLDERS = ("peft", "coreml")
PRECISIONS = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "executorch": ("fp32", "int8"),
    "coreml": ("fp32", "fp16"),
}
"""In which precisions a format holds a model, where it is not fp32 alone."""
CALIBRATION = 128
"""Training images that int8 is calibrated on, where nobody says how many."""
PREPROCESS = ".preprocess.json"
"""What follows the whole name of an export in the name of the file that says what to do to an image."""


def read_finished(folder: str | Path, config_dir: str | Path | None = None) -> tuple[Path, Record, Config]:
    """The folder of a complete run, its record and its config.

    Args:
        folder: the run's, `outputs/<run id>`.
        config_dir: a folder with the YAML of a method of your own.

    Raises:
        UserError: there is no run, it is not complete, or its record or config is missing, damaged or of another
            version.
    """
    if not isinstance(folder, str | Path):
        raise UserError(
            f"run: is the folder of a run, such as 'outputs/<run id>', and what was given is {described(folder)}."
        )
    folder = Path(folder).expanduser()
    own = [] if config_dir is None else [Path(config_dir).expanduser()]
    if own and not own[0].is_dir():
        raise UserError(f"config_dir={config_dir}: there is no such folder; give the one with your own YAML files.")
    if folder.is_file():
        raise UserError(f"run={folder}: is a file; give the folder of the run, such as {folder.parent}.")
    remedy = "; a run's model is made again only with the record that it wrote"
    record = read_complete(folder, f"run={folder}", remedy, "the same command finishes a run")
    for part in ("backbone", "data"):
        if not isinstance(record.stamps.get(part), dict):
            raise UserError(f"{folder / RECORD}: is not a whole record; its stamps have no {part}.")
    remove_dead_parts(folder)
    return folder, record, config.restored(folder / CONFIG, own)


def export_place(folder: Path, form: str, out: str | Path | None, force: bool, precision: str = "fp32") -> Path:
    """Where an export of a run goes: `out`, or its usual name in the run's folder.

    Raises:
        UserError: it, or a file that goes with it, is there already, is a folder where it should be a file, or has the
            name of another format.
    """
    name = export_name(form, precision)
    path = Path(out).expanduser() if out is not None else folder / name
    for part in (path, *companions(path, form)):
        if part.exists() and not force:
            raise UserError(f"out={part}: exists already; give another name, or force=true.")
        if part.exists() and part.is_dir() != (part == path and form in FOLDERS):
            raise UserError(f"out={part}: is a {'folder' if part.is_dir() else 'file'}; give another name.")
    if (suffix := Path(name).suffix) and path.suffix != suffix:
        raise UserError(f"out={path}: expected a name that ends in {suffix}.")
    return path


def export_name(form: str, precision: str = "fp32") -> str:
    """What an export is called in a run's folder."""
    name = Path(PLACES[form])
    return name.name if precision == "fp32" else f"{name.stem}.{precision}{name.suffix}"


def companions(path: Path, form: str) -> list[Path]:
    """The files that go with an exported one: what to do to an image, weights, metadata that have no place in it."""
    told = path.with_name(path.name + PREPROCESS)
    if form == "openvino":
        return [told, path.with_suffix(".bin")]
    return [told, path.with_name(f"{path.name}.json")] if form == "executorch" else [told]


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lossy(path: Path) -> Path:
    """The name under which a file is kept apart that loses too much."""
    return path.with_name(f"{path.stem}.lossy{path.suffix}")


def check_precision(form: str, precision: str, calibration: int | None) -> int:
    """How many images int8 is calibrated on; raises UserError where the format has no such precision."""
    offered = PRECISIONS.get(form, ("fp32",))
    if precision not in ("fp32", "fp16", "int8"):
        raise UserError(f"precision={precision}: expected fp32, fp16 or int8.")
    if precision not in offered:
        having = ", ".join(name for name, several in PRECISIONS.items() if precision in several)
        raise UserError(
            f"precision={precision}: format={form} is written in {' or '.join(offered)}; with {precision} go {having}."
        )
    if calibration is not None and (isinstance(calibration, bool) or calibration < 1):
        raise UserError(f"calibration={calibration}: expected a number of images, 1 or more.")
    if calibration is not None and precision != "int8":
        raise UserError(f"calibration={calibration}: is of precision=int8; leave it out.")
    return calibration or CALIBRATION


def refuse_merge(form: str, merge: object) -> None:
    """Raises UserError where `merge` says how to merge, and the format keeps the update apart."""
    if form == "peft" and merge is not True:
        raise UserError(
            f"merge={str(merge).lower()}: format=peft holds the update apart from the weights; leave it out."
        )
