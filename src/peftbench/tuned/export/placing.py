"""An export takes its place whole or not at all: a file, several that go together, or a folder."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from peftbench.common.atomic_files import give_usual_mode, why_not_written
from peftbench.common.errors import UserError
from peftbench.common.leftovers import ASIDE, part_folder
from peftbench.tuned.export import preprocess
from peftbench.tuned.run_folder import companions

Result = TypeVar("Result")


def placed(path: Path, form: str, write: Callable[[Path], Result], beside: Mapping[str, Any]) -> tuple[Path, Result]:
    """`path` as `write` made it beside its place, and its answer; where that fails, what was there before is kept.

    `beside` is what the file for other programs says of it.
    """
    with made_aside(path) as folder:
        answer = write(folder / path.name)
        preprocess.write_preprocess(folder / path.name, path.name, beside)
        take_place(folder / path.name, path, form, folder)
    return path, answer


@contextlib.contextmanager
def made_aside(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is to take its place. Raises UserError where something cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        begins, ends = part_folder(path.name)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=begins, suffix=ends) as folder:
            yield Path(folder)
    except (OSError, SafetensorError) as problem:
        raise UserError(f"out={path}: could not be written ({why_not_written(problem)}).") from None


def take_place(part: Path, path: Path, form: str, folder: Path) -> None:
    """Moves `part`, with the files that go with it, to `path`; `folder` takes what was there, until all is done."""
    moves = [*zip(companions(part, form), companions(path, form), strict=True), (part, path)]
    for made, _ in moves:
        for file in [made] if made.is_file() else made.rglob("*"):
            if file.is_file():
                give_usual_mode(file)
    if len(moves) == 1 and not path.is_dir():
        part.replace(path)
        return
    # A folder cannot be replaced, nor can two files at once: the old ones step aside, and come back where that fails.
    aside = folder / ASIDE
    aside.mkdir()
    stepped: list[tuple[Path, Path]] = []
    arrived: list[Path] = []
    try:
        for _, place in reversed(moves):  # first what is opened by its name, so that no old one has new weights
            if place.exists():
                place.replace(aside / place.name)
                stepped.append((aside / place.name, place))
        for made, place in moves:
            made.replace(place)
            arrived.append(place)
    except OSError:
        for place in arrived:
            place.replace(folder / f"{place.name}.undone")
        for old, place in stepped:
            old.replace(place)
        raise
