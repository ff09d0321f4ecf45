"""Pictures of pages: the report's and a run's, in a headless Chromium, light and dark, wide and as on a phone."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from sources import FOLDER, MOST_BYTES

import runs
from peftbench.cli.main import main

SIZES = {"light": (1280, 950), "dark": (1280, 950), "phone": (390, 844)}
"""Width and height in pixels of a report."""
HIGH = 1700
"""The height of a run's page, whose first drawings stand below its tables."""
NARROWEST = 500
"""What a window of Chromium has at least: a narrower page is looked at in a frame."""
OF_RUN = "losa-efficientnet_lite0-photos-s0"


def report(name: str, work: Path) -> None:
    """`report-<way>.png`: the page of the kept records of the sweep."""
    _shoot(_report(work), name)


def run_page(name: str, work: Path) -> None:
    """`run-<way>.png`: the page of one run of the sweep."""
    _shoot(_page_of_run(work), name, HIGH)


@functools.cache
def _report(work: Path) -> Path:
    page = work / "report.html"
    page.unlink(missing_ok=True)
    records = runs.kept("sweep", work / "records")
    if main(["report", str(records), "--format=html", f"--output={page}"]) != 0:
        raise SystemExit("pictures: no report")
    return page


@functools.cache
def _page_of_run(work: Path) -> Path:
    [folder] = [folder for folder in runs.folders("sweep", work) if folder.name.startswith(OF_RUN)]
    if main(["report", f"run={folder}", "all=true"]) != 0:
        raise SystemExit("pictures: no page of the run")
    return folder / "page.html"


def _shoot(page: Path, name: str, high: int = 0) -> None:
    way = name.removesuffix(".png").rpartition("-")[2]
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("pictures: no Chromium is installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        shot = Path(profile) / "shot.png"
        width, height = SIZES[way]
        height = high or height
        framed = Path(profile) / "framed.html"
        style = f"border:0;width:{width}px;height:{height}px"
        framed.write_text(f'<body style="margin:0"><iframe src="file://{page.resolve()}" style="{style}"></iframe>')
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}/user", "--virtual-time-budget=3000", f"--screenshot={shot}"]
        command += [f"--window-size={max(width, NARROWEST)},{height}", "--allow-file-access-from-files"]
        command += [f"--blink-settings=preferredColorScheme={0 if way == 'dark' else 1}", f"file://{framed}"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        save(Image.open(shot).crop((0, 0, width, height)), name)


def save(image: Image.Image, name: str) -> None:
    """Writes a PNG of at most 256 colours, or fewer where it would be too large a file."""
    for colours in (256, 128, 64, 32):
        few = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        few.save(FOLDER / name, optimize=True)
        if (FOLDER / name).stat().st_size <= MOST_BYTES:
            return
    raise SystemExit(f"pictures: {name} is larger than {MOST_BYTES:,} bytes with 32 colours")
