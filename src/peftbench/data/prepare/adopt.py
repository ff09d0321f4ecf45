"""A task from a copy that somebody made: NOAH's layout, which PETL repositories share, unpacked or in one archive."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from peftbench.common.errors import UserError, nearest
from peftbench.common.progress import Stages, unwatched
from peftbench.common.regular_files import content_of
from peftbench.common.vtab_tasks import TASKS, spellings
from peftbench.data.prepare.task_folder import building_folder
from peftbench.data.prepare.tree import FolderTree, Tree, open_tree
from peftbench.data.vtab import list_files, provenance
from peftbench.data.vtab.dataset import find_task_folder
from peftbench.data.vtab.verify import Report, verify_task_folder


def adopt_task(
    task: str, path: Path, target: Path, sizes: tuple[int, int, int] | None = None, watch: Stages = unwatched
) -> tuple[provenance.Provenance, list[str]]:
    """Copies a task's lists and the images they name, as they are, from `path` to `target`, and checks every one.

    Pictures that are in two of train, val and test stay there: the lists that people share have some, as their sources
    do. What peftbench made itself keeps the name of its split.

    Args:
        task: the task's name, without vtab/.
        path: the folder or archive of one task, or of many, or a folder of such archives, under any of their names.
        target: the folder to make.
        sizes: images of train, val and test where the copy is not of VTAB-1k's sizes.
        watch: called with what is being done, how much of it is done, and of how much.

    Returns:
        What was made, and sentences about pictures that are in two of train, val and test.

    Raises:
        UserError: no such task there, or something that `verify_task_folder` finds wrong. Nothing is left at `target`.
    """
    if not path.exists():
        raise UserError(f"path={path}: there is no such folder or archive.")
    source, prefix = _located(task, path)
    texts = _texts(source, prefix)
    plan = hashlib.sha256(f"{path.absolute()}\n{prefix}\n{sizes}".encode() + b"".join(texts.values())).hexdigest()
    with building_folder(target, plan) as begun:
        try:
            names = _lists(source, prefix, texts, begun)
            _images(source, prefix, names, begun, watch, task)
            report = verify_task_folder(begun, task, watch, sizes)
            _named(task, source, prefix, report)
            if report.problems:
                problem = report.problems[0].replace(str(begun), f"{source.title}/{prefix}".rstrip("/")).rstrip(".")
                more = f", and {len(report.problems) - 1} more" if len(report.problems) > 1 else ""
                raise UserError(f"path={path}: {task} is not adopted: {problem}{more}.")
        except UserError:  # the damaged files would only be found damaged again
            shutil.rmtree(begun, ignore_errors=True)
            raise
        made = provenance.read_provenance(begun) or _provenance(task, report, sizes)
        (begun / provenance.FILE).write_text(made.text(), encoding="utf-8")
    return made, report.overlaps


def _named(task: str, source: Tree, prefix: str, report: Report) -> None:
    """Notes a problem where a folder bears none of the task's names and lacks classes: it may be another task's."""
    name = prefix.rstrip("/").rpartition("/")[2] or Path(source.title).name.partition(".")[0]
    classes = max(report.classes.values(), default=0)
    if name not in spellings(task) and classes < TASKS[task].classes:
        report.problems.append(
            f"it has images of {classes} of the {TASKS[task].classes} classes and is called {name}, so it looks like "
            f"another task; call it {task} if it is not"
        )


def _provenance(task: str, report: Report, sizes: tuple[int, int, int] | None) -> provenance.Provenance:
    train_val_test = (report.sizes["train"], report.sizes["val"], report.sizes["test"])
    split = "-".join([provenance.ADOPTED, *map(str, sizes or ())])
    return provenance.Provenance(
        task, split, provenance.ADOPTED, train_val_test, sizes is not None, report.hashes["final"]
    )


def _located(task: str, path: Path) -> tuple[Tree, str]:
    """Where the task's lists are: a tree, and the folder in it, with a slash or empty."""
    if path.is_dir():
        for root in (path, *(p for p in sorted(path.iterdir()) if p.is_dir())):
            folder = find_task_folder(root, task)
            if folder is not None and (folder == path or folder.name in spellings(task)):
                return FolderTree(folder, path), ""
        for name in (
            spelling + suffix for spelling in spellings(task) for suffix in (".zip", ".tar", ".tar.gz", ".tgz")
        ):
            if (path / name).is_file():
                return _located(task, path / name)
        there = [p.name for p in path.iterdir()]
    else:
        whole = open_tree(path)
        folders = [name.removesuffix(list_files.FILES["train"]) for name in whole.names() if _is_list(name)]
        for prefix in folders:
            if prefix.rstrip("/").rpartition("/")[2] in spellings(task) or folders == [""]:
                return whole, prefix
        there = [prefix.rstrip("/").rpartition("/")[2] for prefix in folders]
    near = nearest(task, there)
    raise UserError(f"path={path}: holds no {list_files.FILES['train']} of {task}, under any of its names{near}.")


def _is_list(name: str) -> bool:
    return name.rpartition("/")[2] == list_files.FILES["train"]


def _texts(source: Tree, prefix: str) -> dict[str, bytes]:
    wanted = {f"{prefix}{file}": file for file in list_files.FILES.values()}
    if isinstance(source, FolderTree):
        lost = [file for file in wanted.values() if not (source.root / file).is_file()]
        if lost:
            raise UserError(
                f"{source.root / lost[0]}: is missing; expected the four lists {', '.join(wanted.values())}."
            )
        return {file: content_of(source.path(file)) for file in wanted.values()}
    return {wanted[name]: content for name, content in source.read(wanted)}


def _lists(source: Tree, prefix: str, texts: dict[str, bytes], begun: Path) -> list[str]:
    """Writes the lists, and gives the names of the images in them that may be copied."""
    names: dict[str, None] = {}
    for file, content in texts.items():
        (begun / file).write_bytes(content)
        listed = list_files.read_list(begun, file, None)
        if listed.problems:
            where = f"{source.title}/{prefix}".rstrip("/")
            raise UserError(listed.problems[0].replace(str(begun), where))
        names |= dict.fromkeys(listed.names)
    return list(names)


def _images(source: Tree, prefix: str, names: list[str], begun: Path, watch: Stages, task: str) -> None:
    wanted = {f"{prefix}{name}": name for name in [*names, "classes.txt", provenance.FILE]}
    missing = {at: name for at, name in wanted.items() if not (begun / name).is_file()}
    for done, (name, content) in enumerate(_contents(source, missing), start=len(wanted) - len(missing) + 1):
        path = begun / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(content)
        part.replace(path)
        watch(f"copying {task}", done, len(wanted))


def _contents(source: Tree, wanted: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Those of the wanted files that are there; verifying the folder names the others."""
    if isinstance(source, FolderTree):
        for at, name in wanted.items():
            if (source.root / at).is_file():
                yield name, content_of(source.path(at))
        return
    left = set(wanted)
    for name, file in source.walk(left.__contains__):
        if file is not None:
            with source.guarded():
                content = file.read()
            yield wanted[name], content
