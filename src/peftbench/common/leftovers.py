"""What a process that was killed leaves of a file that it was writing, and who may remove it.

The name of such a part says which process on which machine wrote it. It is removed once that process is surely gone;
one of another machine, which may share the folder, is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
from pathlib import Path

ASIDE = "before"
"""In the folder of a part: what was at the place before, while both are moved. It is somebody's, and never removed."""
_HERE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_PART = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)(\.\w+)?\.part")


def part_name(name: str) -> str:
    """The name of a part of a file of that name, which this process writes."""
    return f".{name}.{_HERE}-{os.getpid()}.part"


def part_folder(name: str) -> tuple[str, str]:
    """What the name of a folder of parts begins and ends with, for `tempfile`."""
    return f".{name}.{_HERE}-{os.getpid()}.", ".part"


def remove_dead_parts(folder: Path) -> None:
    """Removes the parts in a folder that processes of this machine left and that are gone; what cannot be, stays."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            named = _PART.fullmatch(entry.name)
            if named is None or named[1] != _HERE or entry.is_symlink() or not _is_gone(int(named[2])):
                continue
            with contextlib.suppress(OSError):
                if entry.is_file():
                    os.unlink(entry)
                elif not os.path.lexists(os.path.join(entry, ASIDE)):
                    shutil.rmtree(entry)


def _is_gone(process: int) -> bool:
    if os.name == "nt":  # where asking for a process ends it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's
        return False
    return False
