"""A `~` at the start of a path: the user's home, as a shell has it."""

from __future__ import annotations

import os

from peftbench.common.errors import UserError


def with_home(path: str, word: str) -> str:
    """The path with the home in it. `word` is what the user wrote, such as `data.root=~/photos`.

    Raises:
        UserError: it names the home of a user who is not there.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = path[1:].split("/")[0].split(os.sep)[0]
        raise UserError(
            f"{word}: there is no user '{user}', whose home ~{user} would be; your own is ~/, and other text that "
            f"begins so needs quotes."
        )
    return expanded
