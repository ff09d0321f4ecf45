"""How long the command takes to answer `--help`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.tables import Row, time_row
from bench.timing import COMMAND, seconds_of

WHAT = "`--help`, bare Hydra"

_BARE_HYDRA = """\
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass

main()
"""


def names() -> list[str]:
    return [WHAT]


def measure(quick: bool = False) -> list[Row]:
    """`peftbench --help` against the `--help` of a bare Hydra application, both with compiled bytecode."""
    repeats = 1 if quick else 15
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(_BARE_HYDRA, encoding="utf-8")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder

        def spent(*command: str) -> float:
            return seconds_of(lambda: subprocess.run(command, env=environment, check=True, capture_output=True))

        pairs = [(spent(COMMAND, "--help"), spent(sys.executable, str(bare), "--help")) for _ in range(repeats + 1)]
    ours, peer = (statistics.median(times[1:]) for times in zip(*pairs, strict=True))  # the first round compiles
    return [time_row(WHAT, ours, peer, 1.2)]
