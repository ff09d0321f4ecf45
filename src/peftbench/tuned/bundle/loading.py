"""`open_bundle`: tasks of a bundle in onnxruntime, after every file is what the manifest names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.errors import UserError, nearest
from peftbench.common.foreign_text import first_sentence
from peftbench.data.decoding import Picture
from peftbench.data.images import Transform
from peftbench.tuned.bundle.manifest import Manifest, Version, check_file, read_manifest

_COPY = "copy it again"


class BundledTask:
    """A task of a bundle, ready to answer.

    Attributes:
        session: onnxruntime's.
        version: its number.
        classes: in the order of its predictions.
        about: what the manifest says of it.
    """

    def __init__(self, session: Any, version: int, about: Version) -> None:
        self.session, self.version, self.about = session, version, about
        self.classes = tuple(about.classes)

    def predict(self, images: Sequence[Picture]) -> np.ndarray:
        """What the task predicts for images, float32 (B, …): logits (B, classes) of a classifier.

        Args:
            images: files, PIL images, or pixels (H, W) or (H, W, 3) in uint8.

        Raises:
            UserError: an image cannot be read, or the task is of clips or finds boxes, whose `session` takes what its
                metadata say.
        """
        names = [entry.name for entry in self.session.get_inputs()]
        if names != ["images"] or len(self.session.get_inputs()[0].shape) != 4:
            raise UserError(
                f"{self.about.file}: takes {', '.join(names)}, which are not images of one size; its session takes "
                f"what its metadata say."
            )
        transform = _transform(self.about.transform)
        pixels = np.stack([transform(image).numpy() for image in images]).astype(np.float32) / np.float32(255)
        (answer,) = self.session.run(None, {"images": pixels})
        return np.asarray(answer)


def _transform(about: Mapping[str, Any]) -> Transform:
    """How images are prepared; the graph itself normalises them."""
    size: Any = about["size"]
    size = tuple(size) if isinstance(size, list) else size
    return Transform(
        size,
        about["interpolation"],
        tuple(about["mean"]),
        tuple(about["std"]),
        range=about.get("range", "auto"),
        resize=about.get("resize", "squash"),
        draft=about.get("draft", False),
    )


class Bundle:
    """A bundle that is open. Files of the backbone are hashed once.

    Attributes:
        manifest: what it is.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._checked: set[str] = set()

    def task(self, name: str, version: int | None = None) -> BundledTask:
        """A task, in the version that is in use or in another one.

        Raises:
            UserError: there is no such task or version, a file is not what the manifest names, or onnxruntime is
                missing.
        """
        tasks = self.manifest.tasks
        if name not in tasks:
            there = ", ".join(tasks)
            raise UserError(f"task {name!r}: is not in {self.folder}{nearest(name, tasks)}; there are {there}.")
        entry = tasks[name]
        number = entry.current if version is None else version
        about = entry.versions.get(str(number))
        if about is None:
            raise UserError(f"task {name!r}: has no version {number}; there are {', '.join(entry.versions)}.")
        check_task(self.folder, self.manifest, name, number, self._checked)
        return BundledTask(session_of(self.folder, about), number, about)


def open_bundle(folder: str | Path) -> Bundle:
    """The bundle in a folder; no graph is read yet.

    Raises:
        UserError: there is none, or its manifest is damaged.
        Refusal: it is of a later version.
    """
    place = Path(folder).expanduser()
    return Bundle(place, read_manifest(place))


def check_task(folder: Path, manifest: Manifest, name: str, number: int, checked: set[str]) -> None:
    """Raises UserError, which says what helps, where a file of a task's version is not what the manifest names.

    Args:
        folder: of the bundle.
        manifest: its own.
        name: the task's.
        number: the version's.
        checked: as `check_version` has it.
    """
    entry = manifest.tasks[name]

    def remedy() -> str:
        if number != entry.current or entry.earlier is None:
            return _COPY
        try:
            check_version(folder, manifest, entry.versions[str(entry.earlier)], lambda: _COPY)
        except UserError:
            return _COPY
        return f"{_COPY}, or go back: peftbench bundle rollback={name} out={folder}"

    check_version(folder, manifest, entry.versions[str(number)], remedy, checked)


def check_version(
    folder: Path, manifest: Manifest, about: Version, remedy: Callable[[], str], checked: set[str] | None = None
) -> None:
    """Raises UserError where a file that a version needs is not what the manifest names.

    Args:
        folder: of the bundle.
        manifest: its own.
        about: the version.
        remedy: says what would help where the graph is not whole, for the sentence.
        checked: names of the backbone's files that need no second look; gets those that were looked at.
    """
    check_file(folder, about.file, about, remedy)
    check_base(folder, manifest, about.base, set() if checked is None else checked)


def check_base(folder: Path, manifest: Manifest, names: Iterable[str], checked: set[str]) -> None:
    """Raises UserError where one of these files of the backbone is not whole; `checked` as in `check_version`."""
    for name in names:
        if name not in checked:
            check_file(folder, name, manifest.base.files[name], lambda: _COPY)
            checked.add(name)


def session_of(folder: Path, about: Version) -> Any:
    """Onnxruntime's session of a graph beside its backbone's files. Raises UserError."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("bundle: needs onnxruntime; pip install 'peftbench[onnx]'.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails raises all the same
    try:
        return onnxruntime.InferenceSession(str(folder / about.file), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # of onnxruntime's own classes
        raise UserError(f"{folder / about.file}: cannot be opened ({first_sentence(problem)}).") from None
