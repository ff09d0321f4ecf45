"""Whether a release says one version everywhere: the package, CITATION.cff, CHANGELOG.md and, if given, the tag.

    python scripts/release_check.py [vX.Y.Z]

With a tag the changelog's section has a date, and nothing waits above it. What does not agree is named, with its file,
and the exit status is 1. It needs Python alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = r"\d+\.\d+\.\d+"
SECTION = re.compile(rf"^## ({VERSION})(?: \((unreleased|\d{{4}}-\d\d-\d\d)\))?$", re.MULTILINE)


def stated(path: Path, pattern: str) -> str:
    """What a file says by the first group of a pattern; empty where it says nothing."""
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else ""


def disagreements(root: Path, tag: str | None = None) -> list[str]:
    """One sentence for each place that says another version than the package, or another date than the changelog."""
    package = stated(root / "src" / "peftbench" / "__init__.py", rf'^__version__ = "({VERSION})"$')
    if not package:
        return ['src/peftbench/__init__.py: has no line __version__ = "X.Y.Z".']
    wrong = []
    cited = stated(root / "CITATION.cff", rf"^version: ({VERSION})$")
    if cited != package:
        wrong.append(f"CITATION.cff: says version {cited or 'nothing'}, and the package {package}.")
    sections = SECTION.findall((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    newest, when = sections[0] if sections else ("", "")
    if newest != package:
        wrong.append(f"CHANGELOG.md: begins with {newest or 'no version'}, and the package is {package}.")
    if tag is None:
        return wrong
    if tag != f"v{package}":
        wrong.append(f"the tag is {tag}, and the package {package}: expected v{package}.")
    if when in ("", "unreleased"):
        wrong.append(f"CHANGELOG.md: {newest} has no date; write ## {newest} (YYYY-MM-DD).")
    elif when != (day := stated(root / "CITATION.cff", r"^date-released: (\S+)$")):
        wrong.append(f"CITATION.cff: says date-released {day or 'nothing'}, and CHANGELOG.md {when}.")
    return wrong


if __name__ == "__main__":
    wrong = disagreements(ROOT, *sys.argv[1:2])
    print("\n".join(wrong) or "one version everywhere")
    sys.exit(bool(wrong))
