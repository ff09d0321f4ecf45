"""What `data check` found, as one HTML page that needs nothing else. Every name and label is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing is fetched, no script runs
_STYLE = """
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; margin: .6rem 0; }
figure { margin: 0; background: var(--band); border-left: 3px solid var(--edge); border-radius: 4px; padding: .6rem; }
figure.issue { border-left-color: var(--mark); }
figure img { display: inline-block; max-width: 47%; min-width: 4rem; image-rendering: auto; vertical-align: top; }
figcaption { font-size: .85rem; }
"""


@dataclass(frozen=True)
class Shown:
    """One image of the page, or two that look alike.

    Attributes:
        pictures: JPEG files, small.
        lines: what is written below, as plain text.
        marked: whether it stands out.
    """

    pictures: tuple[bytes, ...]
    lines: tuple[str, ...]
    marked: bool = False


def data_page(name: str, lines: Sequence[str], sections: Sequence[tuple[str, str, Sequence[Shown]]]) -> str:
    """The page of a data set.

    Args:
        name: of the data set.
        lines: what was found, a sentence each.
        sections: heading, note and images of each part; those without images are left out.
    """
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8") + _STYLE
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(name)}</title>',
        f"<style>\n{style}</style></head><body><main><h1>{escape(name)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in lines),
    ]
    for heading, note, shown in sections:
        if shown:
            parts += [f'<section><h2>{escape(heading)}</h2><p class="note">{escape(note)}</p><div class="pictures">']
            parts += [*map(_figure, shown), "</div></section>"]
    return "\n".join([*parts, "</main></body></html>\n"])


def _figure(shown: Shown) -> str:
    pictures = "".join(
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">' for picture in shown.pictures
    )
    lines = "<br>".join(map(escape, shown.lines))
    return f"<figure{' class=issue' if shown.marked else ''}>{pictures}<figcaption>{lines}</figcaption></figure>"
