"""`peftbench list methods|backbones|data`."""

from __future__ import annotations

from peftbench.common.errors import UserError, nearest
from peftbench.config.groups import PLURAL, describe, names, roots


def run(arguments: list[str]) -> int:
    """Prints what exists, a line each. Raises UserError for anything else."""
    after = arguments[arguments.index("list") + 1 :]
    what = next((a for a in after if not a.startswith("-")), "")
    group = PLURAL.get(what) or (what if what in PLURAL.values() else None)
    if group is None:
        raise UserError(f"list {what or '…'}: expected methods, backbones or data{nearest(what, PLURAL)}.")
    found = names(group, roots(arguments))
    width = max(len(n) for n in found)
    for name, path in found.items():
        print(f"{name:<{width}}  {describe(path)}")
    return 0
