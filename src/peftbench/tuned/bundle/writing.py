"""`bundle_runs`: adds tasks, or new versions of them, to a bundle, which is as before until all is written."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.common.file_lock import releasing, take
from peftbench.common.leftovers import remove_dead_parts
from peftbench.common.sealed_file import SEAL
from peftbench.common.seeds import random_numbers_kept
from peftbench.config import Config
from peftbench.runs.build import build_backbone, unstreamed
from peftbench.tuned.bundle.base_tensors import Shared, known_tensors, refuse_other_answers, share_tensors, transform_in
from peftbench.tuned.bundle.loading import check_base, check_task, check_version
from peftbench.tuned.bundle.manifest import (
    FILE,
    Base,
    BaseFile,
    Manifest,
    TaskEntry,
    Version,
    entry_of,
    read_manifest,
    write_manifest,
)
from peftbench.tuned.export import export
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.load import with_weights

_LOCK = ".lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNUSED = "a version that is not whole is not used"


@dataclass(frozen=True)
class Bundled:
    """What became of a task: its version, and whether that is new, was there already, or is in use again."""

    version: int
    how: str


def bundle_runs(
    runs: Mapping[str, str | Path],
    out: str | Path,
    weights: str | Path | None = None,
    config_dir: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Bundled]:
    """Writes the runs as tasks of a bundle: by a task's name, what became of it.

    A task that is there gets a new version, unless its delta is that of one that is there. Old versions stay.

    Args:
        runs: task -> folder of a finished run.
        out: the bundle's folder, which is made where there is none.
        weights: the backbone's weights, where the runs' own are gone.
        config_dir: a folder with the YAML of a method of your own.
        tell: called with what is being done.

    Raises:
        UserError: a run is not finished, a name is no name of a file, the folder holds something else or cannot be
            written, or a file of the bundle is damaged.
        Refusal: a run is of another backbone than the bundle or the other runs; the model has no graph.
    """
    folder = Path(out).expanduser()
    for name in runs:
        if not _NAME.fullmatch(name):
            raise UserError(f"runs: {name!r} is no name of a file; give letters, digits, dots, dashes and underscores.")
    if not runs:
        raise UserError("runs: there are none; give the folders of finished runs.")
    opened = {name: open_run(run, config_dir) for name, run in runs.items()}
    _manifest(folder, opened)  # refuses before anything is made
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            remove_dead_parts(folder)
            return _Writing(folder, _manifest(folder, opened), weights, tell).add(opened)
    except OSError as problem:
        raise UserError(f"out={folder}: could not be written ({problem.strerror or problem}).") from None
    finally:
        if is_new and not (folder / FILE).exists():
            with contextlib.suppress(OSError):
                (folder / _LOCK).unlink()
                folder.rmdir()


def roll_back(out: str | Path, task: str) -> tuple[int, int]:
    """Has a task be the version before the one in use; returns (the version of before, the one now in use).

    Only the manifest is written.

    Raises:
        UserError: there is no such bundle or task, no earlier version, or its files are not whole.
    """
    folder = Path(out).expanduser()
    read_manifest(folder)
    with _locked(folder):
        manifest = read_manifest(folder)
        if task not in manifest.tasks:
            there = ", ".join(manifest.tasks)
            raise UserError(f"rollback={task}: is not in {folder}{nearest(task, manifest.tasks)}; there are {there}.")
        entry = manifest.tasks[task]
        if entry.earlier is None:
            raise UserError(f"rollback={task}: version {entry.current} is in use, and there is no earlier one.")
        before, entry.current = entry.current, entry.earlier
        check_version(folder, manifest, entry.version, lambda: _UNUSED)
        write_manifest(folder, manifest)
    return before, entry.current


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within it no other process writes this bundle. Raises UserError where one does."""
    with releasing(take(folder / _LOCK, wait=False)) as ours:
        if not ours:
            raise UserError(f"out={folder}: another process writes this bundle; wait until it has ended.")
        yield


def _manifest(folder: Path, runs: Mapping[str, FinishedRun]) -> Manifest:
    """The manifest that is there, or that of a new bundle.

    Raises:
        UserError: the folder is something else.
        Refusal: a run is of another backbone.
    """
    there = _begun(folder)
    base, whose = (there.base, str(folder / FILE)) if there else (None, "the first run")
    for run in runs.values():
        base = _same_base(base, run, whose)
    assert base is not None
    return there or Manifest(peftbench=version_of("peftbench"), base=base, tasks={})


def _begun(folder: Path) -> Manifest | None:
    """The manifest that is there. Raises UserError where the folder is something else."""
    if (folder / FILE).exists():
        return read_manifest(folder)
    others = [p for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
    left = [p for p in others if p.suffix not in (".onnx", ".bin")]  # graphs alone: of a bundle that was not finished
    if folder.exists() and (left or not folder.is_dir()):
        raise UserError(f"out={folder}: is there already, and is no bundle; give a new folder, or that of a bundle.")
    return None


def _same_base(base: Base | None, run: FinishedRun, whose: str) -> Base:
    """The base, or that of the run where there is none yet. Raises Refusal where they are two."""
    told = run.metadata
    names = {key: told.get(key, "") for key in ("backbone", "fingerprint", "mask", "quantize")}
    if base is None:
        return Base(**names, files={})
    for key, theirs in names.items():
        if (ours := getattr(base, key)) != theirs:
            raise Refusal(
                f"{run.source}: is of {key}={theirs[:40] or 'none'}, and {whose} of {key}={ours[:40] or 'none'}; a "
                f"bundle has one backbone, so give it a folder of its own."
            )
    return base


class _Writing:
    """Adds tasks to a bundle whose lock is held: graphs and files of the backbone first, the manifest last."""

    def __init__(
        self, folder: Path, manifest: Manifest, weights: str | Path | None, tell: Callable[[str], None]
    ) -> None:
        self.folder, self.manifest, self.weights, self.tell = folder, manifest, weights, tell
        self.made: list[Path] = []

    def add(self, runs: Mapping[str, FinishedRun]) -> dict[str, Bundled]:
        """What became of each; where one fails, the bundle is as it was."""
        try:
            done = {name: self._known_version(name, run) for name, run in runs.items()}
            missing = {name: run for name, run in runs.items() if done[name] is None}
            self._check_what_stays(missing)
            if missing:
                self.tell("building the backbone")
                with random_numbers_kept():
                    known = known_tensors(build_backbone(self._moved(next(iter(missing.values())))))
                for name, run in missing.items():
                    self.tell(f"exporting {name}")
                    done[name] = self._add_version(name, run, known)
            write_manifest(self.folder, self.manifest)
        except BaseException:
            for path in self.made:
                path.unlink(missing_ok=True)
            raise
        return {name: became for name, became in done.items() if became is not None}

    def _check_what_stays(self, renewed: Collection[str]) -> None:
        """Raises UserError where a file that is in use is not whole; of tasks that get a new version no graph is."""
        checked: set[str] = set()
        check_base(self.folder, self.manifest, self.manifest.base.files, checked)  # a new graph may read any of them
        for name, entry in self.manifest.tasks.items():
            if name not in renewed:
                check_task(self.folder, self.manifest, name, entry.current, checked)

    def _known_version(self, name: str, run: FinishedRun) -> Bundled | None:
        """The version that holds the run's delta, which is in use from now on; None where there is none."""
        entry = self.manifest.tasks.get(name)
        same = [int(n) for n, v in entry.versions.items() if v.delta == run.metadata[SEAL]] if entry else []
        if entry is None or not same:
            return None
        if entry.current in same:
            return Bundled(entry.current, "there already")
        entry.current = max(same)
        check_version(self.folder, self.manifest, entry.version, lambda: _UNUSED)
        return Bundled(entry.current, "in use again")

    def _add_version(self, name: str, run: FinishedRun, known: frozenset[str]) -> Bundled:
        """Writes the graph, and what of the backbone lies in no file yet; the manifest on disk names neither so far."""
        files, entry = self.manifest.base.files, self.manifest.tasks.get(name)
        number = max(map(int, entry.versions)) + 1 if entry else 1
        shared = Shared(known, files, f"base-{len(files) + 1}.bin")
        graph = self.folder / f"{name}-{number}.onnx"
        with tempfile.TemporaryDirectory() as work:
            # Unmerged: a merged weight would be the task's own, and onnxruntime folds the update in when it opens it.
            whole = export(run, "onnx", Path(work) / "whole.onnx", merge=False, weights=self.weights).path
            self.made.append(graph)
            with replacing(graph) as part:
                read, moved = share_tensors(whole, part, shared)
            if shared.added:
                self.made.append(self.folder / shared.new)
                with replacing(self.folder / shared.new) as part:
                    part.write_bytes(shared.data)
                about = entry_of(self.folder / shared.new)
                files[shared.new] = BaseFile(**about.model_dump(), tensors=shared.added)
            refuse_other_answers(whole, graph)
            about_graph = entry_of(graph)
            made = Version(
                **about_graph.model_dump(),
                file=graph.name,
                whole=about_graph.bytes + moved,
                base=read,
                run=run.record.id,
                delta=run.metadata[SEAL],
                method=run.config.method.name,
                task=run.config.task.name,
                classes=list(run.classes),
                transform=transform_in(whole),
            )
        entry = self.manifest.tasks.setdefault(name, TaskEntry(current=number, versions={}))
        entry.current, entry.versions[str(number)] = number, made
        return Bundled(number, "new")

    def _moved(self, run: FinishedRun) -> Config:
        config = unstreamed(run.config)
        return config if self.weights is None else with_weights(config, str(self.weights))
