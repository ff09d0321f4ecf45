"""Where peftbench keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """$PEFTBENCH_CACHE, or peftbench/ in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("PEFTBENCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "peftbench"
    return Path(base).expanduser()
