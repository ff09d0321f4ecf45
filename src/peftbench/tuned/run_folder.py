"""What the folder of a finished run says of itself, read without torch; and where an export of it goes."""

from __future__ import annotations

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
}
"""What an export of each format is called in a run's folder: a file, or for peft a folder."""
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


def export_place(folder: Path, form: str, out: str | Path | None, force: bool) -> Path:
    """Where an export of a run goes: `out`, or its usual name in the run's folder.

    Raises:
        UserError: it is there already, is a folder where it should be a file, or has the name of another format.
    """
    name = PLACES[form]
    path = Path(out).expanduser() if out is not None else folder / name
    if path.exists() and not force:
        raise UserError(f"out={path}: exists already; give another name, or force=true.")
    if (beside := path.with_name(path.name + PREPROCESS)).exists() and not force:
        raise UserError(f"{beside}: exists already, of an earlier export; give out another name, or force=true.")
    if path.is_dir() != (form == "peft") and path.exists():
        raise UserError(f"out={path}: is a {'folder' if path.is_dir() else 'file'}; give another name.")
    if (suffix := Path(name).suffix) and path.suffix != suffix:
        raise UserError(f"out={path}: expected a name that ends in {suffix}.")
    return path


def refuse_merge(form: str, merge: object) -> None:
    """Raises UserError where `merge` says how to merge, and the format keeps the update apart."""
    if form == "peft" and merge is not True:
        raise UserError(
            f"merge={str(merge).lower()}: format=peft holds the update apart from the weights; leave it out."
        )
