"""`manifest.json` of a bundle: which files are of it, with their hashes, and what is current. It is written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import Refusal, UserError
from peftbench.common.regular_files import open_binary, text_in

FILE = "manifest.json"
FORMAT = "peftbench-bundle-1"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of a file beside the manifest, or of a task: no way out of the folder."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FileEntry(_Part):
    """A file of the bundle: its size in bytes, and its sha256."""

    bytes: int
    sha256: str


class BaseFile(FileEntry):
    """A file of tensors of the backbone: sha256 of a tensor's bytes -> its offset and length."""

    tensors: dict[str, tuple[int, int]]


class Base(_Part):
    """The backbone, as the metadata of deltas name it."""

    backbone: str
    fingerprint: str
    mask: str
    quantize: str
    files: dict[Name, BaseFile]


class Version(FileEntry):
    """A graph of a task.

    Attributes:
        file: its name.
        whole: bytes of the same graph with all of its tensors.
        base: the files of the backbone's tensors that it reads.
        delta: the hash that the run's delta bears.
        transform: how images are prepared.
    """

    file: Name
    whole: int
    base: list[Name]
    run: str
    delta: str
    method: str
    task: str
    classes: list[str]
    transform: dict[str, object]


class TaskEntry(_Part):
    """All versions of a task by their numbers, from 1, and which of them is in use."""

    current: int
    versions: dict[Annotated[str, Field(pattern=r"^[1-9]\d{0,8}$")], Version]

    @property
    def version(self) -> Version:
        """The one in use."""
        return self.versions[str(self.current)]

    @property
    def earlier(self) -> int | None:
        """The number that a rollback leads to; None where there is none before the one in use."""
        return max((number for number in map(int, self.versions) if number < self.current), default=None)


class Manifest(_Part):
    """What a bundle is."""

    format: str = FORMAT
    peftbench: str
    base: Base
    tasks: dict[Name, TaskEntry]

    def sizes(self) -> tuple[int, int]:
        """(bytes of what is in use, bytes of as many whole graphs)."""
        used = [entry.version for entry in self.tasks.values()]
        base = {name for version in used for name in version.base}
        shared = sum(self.base.files[name].bytes for name in base)
        return shared + sum(version.bytes for version in used), sum(version.whole for version in used)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        UserError: there is none, or it is damaged.
        Refusal: it is of a later version.
    """
    path = folder / FILE
    try:
        content = json.loads(text_in(path))
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no {FILE}; give a folder that peftbench bundle has written.") from None
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is damaged: it is no JSON; copy it again.") from None
    if not isinstance(content, dict) or not str(content.get("format", "")).startswith("peftbench-bundle-"):
        raise UserError(f"{path}: is no manifest of a bundle.")
    if content["format"] != FORMAT:
        raise Refusal(f"{path}: is of format {content['format']}, and this version reads {FORMAT}.")
    if content.pop("content", None) != _seal(content):
        raise UserError(f"{path}: is damaged: what it holds is not what was written; copy it again.")
    content.pop("sizes", None)  # for readers; `Manifest.sizes` counts them
    try:
        manifest = Manifest.model_validate_json(json.dumps(content))
    except ValidationError as problem:
        place = ".".join(map(str, problem.errors()[0]["loc"]))
        raise UserError(f"{path}: is damaged: {place or 'its content'} is not what a bundle has there.") from None
    for name, entry in manifest.tasks.items():
        known = set(manifest.base.files)
        if str(entry.current) not in entry.versions or any(set(v.base) - known for v in entry.versions.values()):
            raise UserError(f"{path}: is damaged: {name} names a version or a file that is not there.")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Puts it in the place of the old one, whole or not at all. Raises UserError."""
    content = manifest.model_dump(mode="json")
    used, copies = manifest.sizes()
    told = {"sizes": {"bundle": used, "copies": copies, "share": round(used / max(copies, 1), 4)}}
    content |= told
    with replacing(folder / FILE) as part:
        part.write_text(json.dumps({**content, "content": _seal(content)}, indent=1) + "\n", encoding="utf-8")


def entry_of(file: Path) -> FileEntry:
    """Size and hash of a file. Raises OSError."""
    with open_binary(file) as opened:
        return FileEntry(bytes=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())


def check_file(folder: Path, name: str, entry: FileEntry, remedy: Callable[[], str]) -> None:
    """Raises UserError where a file is missing, or is not what the manifest names.

    Args:
        folder: of the bundle.
        name: the file's.
        entry: what the manifest says of it.
        remedy: says what would help, for the sentence.
    """
    path = folder / name
    try:
        found = entry_of(path)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing, and {FILE} names it; {remedy()}.") from None
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    if (found.bytes, found.sha256) != (entry.bytes, entry.sha256):
        raise UserError(f"{path}: is not the file that {FILE} names (its sha256 is another); {remedy()}.")


def _seal(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
