"""What others wrote, on a terminal: names of classes and files, methods and reasons of a shared record.

A terminal obeys control characters: it would erase lines, take another title, or write as if it were we who wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console, RenderableType, RenderHook

# Control characters but for new line and tab; marks that turn the direction of writing; halves of characters, which
# stand for bytes that are no UTF-8.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with a picture, such as `␛`, in the place of each character that a terminal would obey."""
    return _OBEYED.sub(_picture, text) if _OBEYED.search(text) else text


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "\ufffd"


class Visible:
    """A text stream on which everything that is written is `visible`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes it, carriage returns too, which CSV may have."""
        return self._stream.write("\r".join(map(visible, text.split("\r"))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def console(**options: Any) -> Console:
    """A rich console, made with `options`, whose texts are `visible`; its styles and its own controls stay."""
    from rich.console import Console

    made = Console(**options)
    made.push_render_hook(cast("RenderHook", _Cleaning()))  # it has the one method of that
    return made


class _Cleaning:
    """Hands everything that is printed through `_Cleaned`."""

    def process_renderables(self, renderables: Iterable[Any]) -> list[Any]:
        from rich.control import Control

        return [each if isinstance(each, Control) else _Cleaned(each) for each in renderables]


class _Cleaned:
    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        from rich.segment import Segment

        for part in console.render(self._renderable, options):
            yield part if part.control else Segment(visible(part.text), part.style)

    def __rich_measure__(self, console: Any, options: Any) -> Any:
        from rich.measure import Measurement

        return Measurement.get(console, options, self._renderable)
