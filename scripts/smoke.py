"""Every method x one backbone of each family x every task, two batches each (`make smoke`).

Methods and tasks are those that `configs/` lists, so that one added later is in it without being named here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

from peftbench.cli.main import main
from peftbench.config import CONFIGS
from peftbench.config.groups import names

BACKBONES = {"vit": "vit_nano", "cnn": "resnet_nano", "hybrid": "hybrid_nano", "hierarchical_vit": "swin_t"}
DATA = {"classification": "digits", "detection": "digits_det"}  # a data set for each task that needs no download


def smoke() -> int:
    """The exit status of the sweep over all of them; refusals are listed and are no failure."""
    tasks = names("task", [CONFIGS])
    if missing := sorted(set(tasks) - set(DATA)):
        sys.exit(f"scripts/smoke.py: name a data set in DATA for {', '.join(missing)}.")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEFTBENCH_CACHE"] = folder
        words = ["-m", "debug=smoke", "method=glob(*)", f"output_dir={folder}", "logger=none"]
        status = max(main([*words, f"backbone={','.join(BACKBONES.values())}", f"data={DATA[task]}"]) for task in tasks)
    print(f"smoke: {time.monotonic() - begun:.0f} s, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(smoke())
