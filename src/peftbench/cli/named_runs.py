"""Several runs as a word gives them: `[a,b]`, `a,b`, or with names, `[digits=outputs/RUN]`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peftbench.cli.arguments import Argument
from peftbench.common.errors import UserError
from peftbench.common.home import with_home

RUNS = Argument(
    "runs",
    "folders of finished runs, with names of their tasks",
    placeholder="[NAME=DIR,…]",
    needed=True,
)
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")


def named_runs(word: str) -> dict[str, str]:
    """Task -> folder; a run without a name is called by its folder's.

    Raises:
        UserError: there is none, two have one name, or what stands before a `=` can be no name.
    """
    found: dict[str, str] = {}
    for part in word.strip().removeprefix("[").removesuffix("]").split(","):
        part = part.strip(" '\"")
        if not part:
            continue
        named = None if Path(part).exists() else _NAMED.fullmatch(part)  # a folder may have such a name
        folder = with_home(named[2] if named else part, f"runs={word}")
        before, equals, _ = part.partition("=")
        if named is None and equals and not Path(folder).exists():
            raise UserError(
                f"runs={word}: {before!r} is no name of a task, which is of letters, digits, dots, dashes and "
                f"underscores, without a /; and {part} is no folder."
            )
        name = named[1] if named else Path(folder).name
        if name in found:
            raise UserError(
                f"runs={word}: {name} stands for two runs; give them names, as in runs=[a={found[name]},b={folder}]."
            )
        found[name] = folder
    if not found:
        raise UserError(f"runs={word}: names no run; expected folders of finished runs, as in runs=[outputs/RUN].")
    return found


def read_all(runs: dict[str, str], config_dir: Any) -> None:
    """Raises UserError where one of them is not finished; needs no torch."""
    from peftbench.tuned.run_folder import read_finished

    for folder in runs.values():
        read_finished(folder, config_dir)
