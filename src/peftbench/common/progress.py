"""The progress bar that everything shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from peftbench.common.status_line import doing

Watch = Callable[[int, int], None]
Stages = Callable[[str, int, int], None]  # what is being done, how much of it is, and of how much


def bar(console: Console) -> Progress:
    """A rich progress bar that erases itself when it is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, refresh_per_second=4)


@contextmanager
def counted(console: Console, what: str, shown: bool = True) -> Iterator[Watch]:
    """A bar for something countable, where somebody looks at a terminal; it appears with the first count."""
    if shown:
        doing(what)
    if not shown or not console.is_terminal:
        yield lambda done, of: None
        return
    with ExitStack() as opened:
        shown_bar: list[tuple[Progress, Any]] = []

        def watch(done: int, of: int) -> None:
            if not shown_bar:
                progress = opened.enter_context(bar(console))
                shown_bar.append((progress, progress.add_task(what, total=of)))
            progress, task = shown_bar[0]
            progress.update(task, completed=done, total=of)

        yield watch


def unwatched(what: str, done: int, of: int) -> None:
    """Shows nothing."""


@contextmanager
def watching(console: Console) -> Iterator[Stages]:
    """A bar for one thing after another, where somebody looks at a terminal."""
    if not console.is_terminal:
        yield unwatched
        return
    with ExitStack() as opened:
        shown_bar: list[tuple[Progress, Any]] = []
        now = ""

        def watch(what: str, done: int, of: int) -> None:
            nonlocal now
            if not shown_bar:
                progress = opened.enter_context(bar(console))
                shown_bar.append((progress, progress.add_task(what, total=of or None)))
            progress, task = shown_bar[0]
            if what != now:
                now = what
                progress.reset(task, description=what, total=of or None)
            progress.update(task, completed=done, total=of or None)

        yield watch
