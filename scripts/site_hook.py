"""What `make docs` does to pages before mkdocs reads them: the same text reads well in the repository and in the site.

- `CONTRIBUTING.md` and `CHANGELOG.md` become pages, and a link to `README.md` leads to the first page.
- A link to any other file outside of `docs/` carries that file into the site, below `files/`. A link to what is not
  there is left as it is, so that the strict build fails and names its page.
- A list right behind a sentence gets the empty line that Python's Markdown wants and the repository's does not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of the site too."""
STANDS_FOR = {ROOT / name: page for name, page in PAGES.items()} | {ROOT / "README.md": "index.md"}
_LINK = re.compile(r"(\]\()([^()\s#:]+)(#[^()\s]*)?(\))")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object|link)\b[^>]*?
    \b(?:src|href|data|srcset)=["']?((?:https?:)?//[^"'\s>]+)|<\w+[^>]*class=["']?(mermaid)""",
    re.VERBOSE,
)
_SEARCH = '<div class="md-search" data-md-component="search" role="dialog">'
"""The theme's dialog, which has no name for a screen reader."""
_ITEM = re.compile(r"^(?:[-*+]|\d+\.) \S")

EVERY = "methods/*.md"
"""Stands in the navigation for the pages of all methods."""


def on_config(config: Any) -> Any:
    """Puts the pages of all methods into the navigation."""
    pages = sorted(path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).glob(EVERY))
    for section in config.nav:
        for title, entries in section.items():
            if EVERY in entries:
                section[title] = [page for entry in entries for page in (pages if entry == EVERY else [entry])]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside of `docs/`."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The text of a page as mkdocs shall read it."""
    at = page.file.src_uri
    of_repository = {target: name for name, target in PAGES.items()}
    source = ROOT / of_repository[at] if at in of_repository else Path(config.docs_dir) / at

    def link(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        uri = _uri(target, Path(config.docs_dir), config, files)
        if uri is None:
            return match[0]
        there = os.path.relpath(uri, os.path.dirname(at) or ".").replace(os.sep, "/")
        return f"{match[1]}{there}{match[3] or ''}{match[4]}"

    return "\n".join(_lines(markdown.split("\n"), lambda line: _LINK.sub(link, line)))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The page, its search named for screen readers.

    Raises:
        PluginError: a browser would fetch something from elsewhere to show it.
    """
    if found := _FETCHED.search(output):
        what = found[1] or "mermaid, which the theme fetches"
        raise PluginError(f"{page.file.src_uri}: would fetch {what}; the site loads nothing from elsewhere.")
    return output.replace(_SEARCH, f'{_SEARCH[:-1]} aria-label="Search">')


def _uri(target: Path, docs: Path, config: Any, files: Files) -> str | None:
    """Where the site has a file of the repository; None where there is no such file."""
    if target in STANDS_FOR:
        return STANDS_FOR[target]
    if not target.is_file() or not target.is_relative_to(ROOT):
        return None
    if target.is_relative_to(docs):
        return target.relative_to(docs).as_posix()
    uri = f"files/{target.relative_to(ROOT).as_posix()}"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(target)))
    return uri


def _lines(lines: list[str], changed: Any) -> list[str]:
    """The lines, changed where they are no code, with an empty one before each list."""
    out: list[str] = []
    fence = ""
    for line in lines:
        mark = _FENCE.match(line)
        if fence:
            fence = "" if mark and line.strip() == fence else fence
        elif mark:
            fence = mark[1]
        elif not line.startswith("    "):
            begins = _ITEM.match(line) and out and out[-1].strip()
            if begins and not _ITEM.match(out[-1]) and not out[-1].startswith(("  ", "#")):
                out.append("")
            line = changed(line)
        out.append(line)
    return out
