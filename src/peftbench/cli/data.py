"""`peftbench data prepare|check|sources`: the tasks of VTAB-1k on disk; `convert`: annotations in COCO's format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from peftbench.common.errors import UserError, nearest
from peftbench.common.progress import Stages, watching
from peftbench.common.vtab_tasks import ALIASES, TASKS, canonical
from peftbench.data.prepare.adopt import adopt_task
from peftbench.data.prepare.original import Wanted, prepare_task
from peftbench.data.prepare.sources import SOURCES
from peftbench.data.voc import convert_voc
from peftbench.data.vtab.dataset import find_task_folder
from peftbench.data.vtab.provenance import Provenance
from peftbench.data.vtab.verify import STAGES, Report, compare_labels, verify_task_folder

_OPTIONS = {
    "prepare": ("source", "path", "dir", "archives", "mirror", "split", "train", "val", "test"),
    "check": ("dir", "stage", "like"),
    "sources": (),
    "convert": ("out", "classes", "zero_based"),
}
_USAGE = {
    "prepare": "peftbench data prepare vtab|vtab/<task> … [source=original|folder] [path=…] [dir=…] [archives=…] "
    "[mirror=…] [split=tfds-order|peftbench-v1] [train=N val=N test=N]",
    "check": "peftbench data check [vtab|vtab/<task>|FOLDER …] [dir=…] [stage=final|tune|fit] [like=FOLDER]",
    "sources": "peftbench data sources",
    "convert": "peftbench data convert voc ROOT out=DIR [classes=a,b,c] [zero_based=true]",
}


def run(arguments: Sequence[str]) -> int:
    """Carries out a command; 1 where data are wrong or a task could not be prepared. Raises UserError."""
    words = list(arguments)[list(arguments).index("data") + 1 :]
    verb = words[0] if words else ""
    if verb not in _USAGE:
        raise UserError(f"data {verb}: there is no such command{nearest(verb, _USAGE)}; expected {', '.join(_USAGE)}.")
    words = _undashed(words)
    given = [w for w in words[1:] if "=" not in w or Path(w).exists()]
    options = dict(w.split("=", 1) for w in words[1:] if w not in given)
    for key in options:
        if key not in _OPTIONS[verb]:
            raise UserError(f"{key}: data {verb} has no such option{nearest(key, _OPTIONS[verb])}; {_USAGE[verb]}.")
    if verb == "sources":
        return _sources()
    if verb == "convert":
        return _convert(given, options)
    console = Console(soft_wrap=True, highlight=False, markup=False)  # which prints beside its bar, a line a task
    with watching(console) as watch:
        return (_prepare if verb == "prepare" else _check)(given, options, console, watch)


def _undashed(words: Sequence[str]) -> list[str]:
    """`--out DIR`, `--out=DIR` and `--zero-based` as out=DIR and zero_based=true."""
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            key, sign, value = word[2:].partition("=")
            key = key.replace("-", "_")
            word = f"{key}={value if sign else 'true' if key == 'zero_based' else next(rest, '')}"
        found.append(word)
    return found


def _convert(words: list[str], options: dict[str, str]) -> int:
    if len(words) != 2 or words[0] != "voc":
        raise UserError(f"data convert: expected voc and one folder; {_USAGE['convert']}.")
    if not options.get("out"):
        raise UserError(f"data convert: give out=DIR, the folder of the JSON files; {_USAGE['convert']}.")
    if options.get("zero_based", "false") not in ("true", "false"):
        raise UserError(f"zero_based={options['zero_based']}: expected true or false.")
    classes = [name.strip() for name in options.get("classes", "").split(",") if name.strip()]
    root, out = Path(words[1]).expanduser(), Path(options["out"]).expanduser()
    done = convert_voc(root, out, classes, options.get("zero_based") == "true")
    for name, file in done.files.items():
        print(f"made   {file}: {done.images[name]:,} images, {done.objects[name]:,} objects")
    print(f"{len(done.classes)} classes: {', '.join(done.classes[:20])}{', …' if len(done.classes) > 20 else ''}")
    for note in done.notes:
        print(f"note: {note}")
    roles = {role: done.files[role].absolute() for role in ("train", "val", "test") if role in done.files}
    if "train" in roles:
        given = " ".join(f"data.{role}={file}" for role, file in roles.items())
        print(f"train with: data=coco_folder data.root={root} {given}{'' if 'val' in roles else ' data.val=null'}")
    return 0


def _data() -> Path:
    return Path(os.environ.get("PEFTBENCH_DATA", "data"))


def _place(options: dict[str, str]) -> Path:
    """The folder of the tasks, as a run looks for them: data.root's default."""
    return Path(options.get("dir") or _data() / "vtab").expanduser()


def _prepare(words: list[str], options: dict[str, str], console: Console, watch: Stages) -> int:
    tasks = list(dict.fromkeys(t for word in words for t in (TASKS if word == "vtab" else (canonical(word),))))
    if not tasks:
        raise UserError(f"data prepare: expected vtab or vtab/<task>; {_USAGE['prepare']}.")
    source = options.get("source", "original")
    if source not in ("original", "folder"):
        raise UserError(f"source={source}: expected original or folder{nearest(source, ('original', 'folder'))}.")
    if source == "folder" and not options.get("path"):
        raise UserError("source=folder: give path=<the folder of the tasks, or of one>.")
    needless = ("archives", "mirror", "split") if source == "folder" else ("path",)
    for key in needless:
        if key in options:
            raise UserError(f"{key}={options[key]}: has no meaning with source={source}; leave it out.")
    sizes = _sizes(options)
    root = _place(options)
    archives = Path(options.get("archives") or _data() / "sources").expanduser()
    wanted = Wanted(archives, options.get("split"), sizes, options.get("mirror"))
    failed: list[str] = []
    for task in tasks:
        if there := find_in(root, task):
            console.print(f"there  {task}: {there} is kept as it is; peftbench data check vtab/{task} looks into it")
            continue
        target = root / task
        try:
            if source == "folder":
                made, notes = adopt_task(task, Path(options["path"]).expanduser(), target, sizes, watch)
            else:
                made, notes = prepare_task(task, target, wanted, watch), []
        except UserError as problem:
            if len(tasks) == 1:
                raise
            failed.append(task)
            console.print(f"failed {task}: {str(problem).removeprefix(f'{task}: ')}")
            continue
        console.print("; ".join([_made(task, target, made), *(f"note: {note}" for note in notes)]))
    if failed:
        console.print(f"{len(failed)} of {len(tasks)} tasks could not be prepared: {', '.join(failed)}")
    return 1 if failed else 0


def _sizes(options: dict[str, str]) -> tuple[int, int, int] | None:
    given = [options.get(role) for role in ("train", "val", "test")]
    if given == [None] * 3:
        return None
    if not all(text and text.isdecimal() and int(text) for text in given):
        said = " ".join(f"{role}={options[role]}" for role in ("train", "val", "test") if role in options)
        raise UserError(f"{said}: a smaller set needs all three of train=N val=N test=N, numbers above 0.")
    train, val, test = (int(text or 0) for text in given)
    return train, val, test


def _made(task: str, folder: Path, made: Provenance) -> str:
    sizes = " + ".join(f"{n:,}" for n in made.sizes)
    return f"made   {task}: {folder}, {sizes} images (train, val, test), split {made.split}, hash {made.hash}"


def _sources() -> int:
    for name, source in SOURCES.items():
        print(f"{', '.join(f'vtab/{task}' for task in source.tasks)}: {source.title}; licence: {source.licence}")
        print(f"  home   {source.home}")
        for file in source.files:
            stands = f" (or {file.other})" if file.other else ""
            print(f"  file   {name}/{file.name}{stands}  {file.url or 'by hand'}")
        print(f"  split  {'tfds-order' if source.known else 'peftbench-v1'}")
        for kind, text in (("steps", source.steps), ("note ", source.note)):
            if text:
                print(f"  {kind}  {text}")
    return 0


def _check(words: list[str], options: dict[str, str], console: Console, watch: Stages) -> int:
    stage = options.get("stage", "final")
    if stage not in STAGES:
        raise UserError(f"stage={stage}: expected {', '.join(STAGES)}{nearest(stage, STAGES)}.")
    like = Path(options["like"]).expanduser() if options.get("like") else None
    good = True
    for name, folder, task in _targets(words, _place(options)):
        if folder is None:
            console.print(f"wrong  {name}: is not in {_place(options)}; peftbench data prepare vtab/{name} makes it")
            good = False
            continue
        report = verify_task_folder(folder, task, watch)
        if like:
            other = find_task_folder(like, task or "") or like
            compare_labels(report, other)
        console.print(_told(name, report, stage))
        good = good and not report.wrong
    return 0 if good else 1


def _targets(words: list[str], root: Path) -> list[tuple[str, Path | None, str | None]]:
    """(name, folder, task) of what is to be checked; a task that is not there has no folder."""
    found: list[tuple[str, Path | None, str | None]] = []
    for word in words or [""]:
        if word in ("", "vtab"):
            there = [(task, find_in(root, task), task) for task in TASKS]
            if not any(folder for _, folder, _ in there):
                raise UserError(
                    f"{root}: holds no task of VTAB-1k; peftbench data prepare makes them, dir=… is elsewhere."
                )
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
    folder = find_task_folder(root, task)
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
    word = "wrong" if report.wrong else "ok   "
    task = f" as {report.task}" if report.task and name != report.task else ""
    said = [f"{word}  {name}{task}: {', '.join(facts)}"]
    said += [p.rstrip(".") for p in report.wrong]
    said += [f"note: {n}" for n in report.notes]
    return "; ".join(said)
