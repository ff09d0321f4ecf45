"""The commit of the code that runs."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


@cache
def code_commit() -> str | None:
    """The commit of a source checkout (with `+` where it has changes), None for an installed package.

    Of a process's first call: later changes are not in the code that it has imported.
    """
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        # Looking writes nothing: a lock of the index that is left, on a full disk say, would bar the next commit.
        command = ["git", "--no-optional-locks", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    return (
        git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "--", "src", "configs") else "") or None
    )
