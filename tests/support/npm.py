"""Packages of node that a test needs: of `node_modules` in the repository, or fetched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.places import ROOT


def node_modules_with(name: str, version: str, folder: Path) -> Path:
    """A folder `node_modules` that holds a package; npm fetches it into `folder` where the repository has none."""
    place = ROOT / "node_modules"
    if (place / name).is_dir():
        return place
    if shutil.which("npm") is None:
        pytest.skip(f"no npm is installed, and node_modules has no {name}")
    command = ["npm", "install", "--silent", "--prefix", str(folder), f"{name}@{version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"npm could not fetch {name}: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"
