"""The repository, and the sample data that may lie beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
CALTECH = SHARED / "caltech101-vtab1k-like"


def shared(name: str) -> Path:
    """A folder of the sample data that lies beside the repository; skips the test where it does not."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"the sample data {name} is not beside the repository")
    return SHARED / name
