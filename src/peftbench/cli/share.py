"""`peftbench share`: what tasks take from one backbone, against as many full copies."""

from __future__ import annotations

from peftbench.common.errors import UserError
from peftbench.config import CONFIGS
from peftbench.config.groups import roots


def run(arguments: list[str]) -> int:
    """Prints storage and memory of the runs in the given folders. Raises UserError where they share no backbone."""
    own = [folder for folder in roots(arguments) if folder != CONFIGS]
    words = zip(["", *arguments], arguments, strict=False)
    folders = [a for b, a in words if not a.startswith("-") and b not in ("--config-dir", "-cd") and a != "share"]
    if not folders:
        raise UserError("share: expected folders of finished runs of one backbone.")

    from peftbench.common.amounts import size
    from peftbench.tuned.multitask import MultiTask

    told = MultiTask(None, folders, own[0] if own else None).report()
    print(f"{told['tasks']} tasks, backbone {size(told['backbone'])}")
    for what in ("storage", "memory"):
        ours, theirs = told[what]["shared"], told[what]["copies"]
        print(f"{what:<8} {size(ours):>8}, as full copies {size(theirs):>8}: {ours / theirs:.2f} of them")
    return 0
