"""`peftbench data check`: whether the tasks of VTAB-1k on disk are whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from peftbench.data.check import STAGES, Report, check
from peftbench.data.vtab import find
from peftbench.errors import UserError, nearest
from peftbench.progress import Watch, watching
from peftbench.vtab import ALIASES, TASKS, canonical

_OPTIONS = {"check": ("dir", "stage")}
_USAGE = {
    "check": "peftbench data check [vtab/<task>|vtab|FOLDER …] [dir=…] [stage=final|tune|fit]",
}


def run(arguments: Sequence[str]) -> int:
    """Carries out `data check`; 1 where something is wrong with the data. Raises UserError."""
    words = list(arguments)[list(arguments).index("data") + 1 :]
    verb = words[0] if words else ""
    if verb not in _USAGE:
        raise UserError(
            f"data {verb}: there is no such command{nearest(verb, _USAGE)}; expected {', or '.join(_USAGE.values())}."
        )
    given = [w for w in words[1:] if "=" not in w or Path(w).exists()]
    options = dict(w.split("=", 1) for w in words[1:] if w not in given)
    for key in options:
        if key not in _OPTIONS[verb]:
            raise UserError(f"{key}: data {verb} has no such option{nearest(key, _OPTIONS[verb])}; {_USAGE[verb]}.")
    with watching(Console()) as watch:
        return _check(given, options, watch)


def _place(options: dict[str, str]) -> Path:
    """The folder of the tasks, as a run looks for them: data.root's default."""
    return Path(options.get("dir") or Path(os.environ.get("PEFTBENCH_DATA", "data")) / "vtab").expanduser()


def _check(words: list[str], options: dict[str, str], watch: Watch) -> int:
    stage = options.get("stage", "final")
    if stage not in STAGES:
        raise UserError(f"stage={stage}: expected {', '.join(STAGES)}{nearest(stage, STAGES)}.")
    good = True
    for name, folder, task in _targets(words, _place(options)):
        if folder is None:
            print(f"wrong  {name}: is not in {_place(options)}; peftbench data prepare vtab/{name} makes it")
            good = False
            continue
        report = check(folder, task, watch)
        print(_told(name, report, stage), flush=True)
        good = good and not report.problems
    return 0 if good else 1


def _targets(words: list[str], root: Path) -> list[tuple[str, Path | None, str | None]]:
    """(name, folder, task) of what is to be checked; a task that is not there has no folder."""
    found: list[tuple[str, Path | None, str | None]] = []
    for word in words or [""]:
        if word in ("", "vtab"):
            there = [(task, find_in(root, task), task) for task in TASKS]
            if not any(folder for _, folder, _ in there):
                raise UserError(f"{root}: holds no task of VTAB-1k; peftbench data prepare makes them, dir=… is elsewhere.")
            found += there if word else [t for t in there if t[1]]
        elif word.removeprefix("vtab/") in (*TASKS, *ALIASES) and not _is_path(word):
            found.append((canonical(word), find_in(root, canonical(word)), canonical(word)))
        elif Path(word).expanduser().is_dir():
            found += _inside(Path(word).expanduser())
        elif _is_path(word):
            raise UserError(f"{word}: there is no such folder.")
        else:
            canonical(word)
    return found


def _is_path(word: str) -> bool:
    return word.startswith((".", "/", "~")) or (os.sep in word and not word.startswith("vtab/"))


def find_in(root: Path, task: str) -> Path | None:
    """The folder of a task below `root`, not `root` itself."""
    folder = find(root, task)
    return None if folder == root else folder


def _inside(folder: Path) -> list[tuple[str, Path | None, str | None]]:
    if any((folder / name).is_file() for name in ("train800.txt", "train800val200.txt", "test.txt")):
        task = _called(folder.resolve().name)
        return [(task or folder.name or str(folder), folder, task)]
    there = [(task, find_in(folder, task), task) for task in TASKS]
    inside: list[tuple[str, Path | None, str | None]] = [t for t in there if t[1]]
    if not inside:
        raise UserError(f"{folder}: holds neither a task's lists (train800.txt, …) nor folders of tasks.")
    return inside


def _called(name: str) -> str | None:
    """The task that a folder's name begins with: `caltech101-mine` is one of caltech101."""
    for word in sorted((*TASKS, *ALIASES), key=len, reverse=True):
        rest = name.removeprefix(word)
        if name.startswith(word) and not rest[:1].isalnum() and rest[:1] != "_":
            return canonical(word)
    return None


def _told(name: str, report: Report, stage: str) -> str:
    facts = []
    for role, count in report.sizes.items():
        classes = report.classes.get(role, 0)
        facts.append(f"{role} {count:,} ({classes} classes)")
    facts.append(f"split {report.split}" if report.split else "split as found")
    if report.hashes:
        facts.append(f"hash {report.hashes[stage]}")
    word = "wrong" if report.problems else "ok   "
    task = f" as {report.task}" if report.task and name != report.task else ""
    said = [f"{word}  {name}{task}: {', '.join(facts)}"]
    said += [p.rstrip(".") for p in report.problems]
    said += [f"note: {n}" for n in report.notes]
    return "; ".join(said)
