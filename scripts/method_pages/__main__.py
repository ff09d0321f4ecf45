"""python scripts/method_pages [--check]     write the pages of the methods, or say which are not current

`make docs-tables` calls it; a slow test checks the pages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from page import FOLDER, pages  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    made = pages()
    there = {p.relative_to(FOLDER).as_posix(): p.read_text(encoding="utf-8") for p in _files()}
    changed = sorted({n for n in made.keys() | there.keys() if made.get(n) != there.get(n)})
    if check and changed:
        sys.exit(f"not current: {', '.join(changed)}; make docs-tables writes them.")
    for name in changed:
        if name in made:
            (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            (FOLDER / name).write_text(made[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()


def _files() -> list[Path]:
    return [p for p in FOLDER.rglob("*") if p.suffix in (".md", ".svg")]


if __name__ == "__main__":
    main()
