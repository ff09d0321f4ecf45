"""HEIC images, as phones take them: Pillow reads them with pillow-heif, which is an extra of peftbench."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

from peftbench.common.errors import UserError

SUFFIX = ".heic"
_FORMAT = "HEIF"
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def register_heif() -> None:
    """Has Pillow read HEIC by its content, whatever a file is called; pillow-heif is imported with the first one."""
    if _FORMAT not in Image.OPEN:  # else pillow-heif is there already
        Image.register_open(_FORMAT, _open, _accept)


def require_heif(images: Iterable[Path]) -> None:
    """Refuses HEIC files where the library that reads them is not installed.

    Raises:
        UserError: how to install it.
    """
    named = [path for path in images if path.suffix.lower() == SUFFIX]
    if not named:
        return
    try:
        import pillow_heif  # noqa: F401
    except ImportError as problem:
        raise _missing(named[0], len(named), problem) from None


def _accept(prefix: bytes) -> bool:
    return prefix[4:8] == b"ftyp" and prefix[8:12] in _BRANDS


def _open(stream: Any, name: str | bytes) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as problem:
        raise _missing(Path(name.decode() if isinstance(name, bytes) else name), 1, problem) from None
    pillow_heif.register_heif_opener()  # in the place of this one
    opened, _ = Image.OPEN[_FORMAT]
    return opened(stream, name)


def _missing(path: Path, count: int, problem: ImportError) -> UserError:
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    return UserError(
        f"{path}{more}: reading HEIC needs pillow-heif ({problem}); pip install 'peftbench[heic]', or convert to JPEG."
    )
