"""A report's page in a Chromium: several pages, widths and addresses in one load, and what a reader sees of each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

READ = (Path(__file__).parent / "pages.js").read_text()


def browser() -> str:
    """A Chromium. Where PEFTBENCH_BROWSER=required (as in .ci/run) its absence is a failure."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("PEFTBENCH_BROWSER") == "required":
        pytest.fail("no Chromium is installed, and PEFTBENCH_BROWSER=required")
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")


def look(folder: Path, views: Mapping[str, tuple[Path, int]], fragments: Mapping[str, str]) -> dict[str, Any]:
    """What a reader sees: by name of the view, its page in so many pixels of width, at the address with the fragment.

    Args:
        folder: for the page that holds the others, and the browser's profile.
    """
    frames = "".join(
        f'<iframe title="{name}" src="file://{page}{fragments.get(name, "")}" '
        f'style="width:{width}px;height:3000px;border:0"></iframe>'
        for name, (page, width) in views.items()
    )
    holder = folder / "views.html"
    holder.write_text(f'<!doctype html><body>{frames}<pre id="seen"></pre><script>{READ}</script>')
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom", f"file://{holder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    content = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert content is not None, done.stderr
    seen: dict[str, Any] = json.loads(unescape(content[1]))
    return seen
