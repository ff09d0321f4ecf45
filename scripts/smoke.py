"""Every method x one backbone of each family x every task, two batches each (`make smoke`).

Methods are those that `configs/` lists and tasks those that peftbench ships, so that one added later is in it without
being named here; a task's schema says which data set it is tried on. Of the names of one class the one that its module
is called by stands for all on every backbone; the others are tried on the first alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import yaml

from peftbench.cli.main import main
from peftbench.common.config_files import names
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config import CONFIGS
from peftbench.config.task_schema import task_schema

BACKBONES = {"vit": "vit_nano", "cnn": "resnet_nano", "hybrid": "hybrid_nano", "hierarchical_vit": "swin_t"}


def words_of_tasks() -> dict[str, tuple[str, ...]]:
    """Task -> the words of its smoke runs. Exits with a sentence where a task has none."""
    words = {name: task_schema({"name": name}).smoke for name in shipped_tasks()}
    if without := sorted(name for name, task_words in words.items() if not task_words):
        sys.exit(f"scripts/smoke.py: the schema of {', '.join(without)} names no data set in SCHEMA.smoke.")
    return words


def names_of_classes() -> tuple[list[str], list[str]]:
    """The methods that are called as their module, and those that are further names of the same classes."""
    first, others = [], []
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        module = content.get("method", content)["path"].split(".")[2]
        (first if module == name else others).append(name)
    return first, others


def smoke() -> int:
    """The exit status of the sweep over all of them; refusals are listed and are no failure."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEFTBENCH_CACHE"] = folder
        first, others = names_of_classes()
        every, one = ",".join(BACKBONES.values()), next(iter(BACKBONES.values()))
        sweeps = [(first, every), *([(others, one)] if others else [])]
        status = 0
        for task_words in words_of_tasks().values():
            for methods, backbones in sweeps:
                words = ["-m", "debug=smoke", f"method={','.join(methods)}", f"backbone={backbones}"]
                status = max(status, main([*words, f"output_dir={folder}", "logger=none", *task_words]))
    print(f"smoke: {time.monotonic() - begun:.0f} s, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(smoke())
