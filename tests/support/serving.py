"""What tests of the server share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = "open-sesame"


@dataclass
class Serving:
    """A server that is running: its address, what it serves, and what it said."""

    url: str
    service: Any
    said: list[str]
    folders: dict[str, Path]
    pictures: Path


def picture(serving: Serving) -> bytes:
    """The file of one image."""
    return sorted((serving.pictures / "test").rglob("*.png"))[3].read_bytes()
