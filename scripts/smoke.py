"""Every method x one backbone of each family x every task, two batches each (`make smoke`).

Methods are those that `configs/` lists and tasks those that peftbench ships, so that one added later is in it without
being named here; a task's schema says which data set it is tried on.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

from peftbench.cli.main import main
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config.task_schema import task_schema

BACKBONES = {"vit": "vit_nano", "cnn": "resnet_nano", "hybrid": "hybrid_nano", "hierarchical_vit": "swin_t"}


def words_of_tasks() -> dict[str, tuple[str, ...]]:
    """Task -> the words of its smoke runs. Exits with a sentence where a task has none."""
    words = {name: task_schema({"name": name}).smoke for name in shipped_tasks()}
    if without := sorted(name for name, task_words in words.items() if not task_words):
        sys.exit(f"scripts/smoke.py: the schema of {', '.join(without)} names no data set in SCHEMA.smoke.")
    return words


def smoke() -> int:
    """The exit status of the sweep over all of them; refusals are listed and are no failure."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEFTBENCH_CACHE"] = folder
        words = ["-m", "debug=smoke", "method=glob(*)", f"backbone={','.join(BACKBONES.values())}"]
        words += [f"output_dir={folder}", "logger=none"]
        status = max(main([*words, *task_words]) for task_words in words_of_tasks().values())
    print(f"smoke: {time.monotonic() - begun:.0f} s, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(smoke())
