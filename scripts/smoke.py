"""Every method x one backbone of each family x every task, two batches each (`make smoke`).

Methods are those that `configs/` lists and tasks those that peftbench ships, so that one added later is in it without
being named here; a task's schema says which data set it is tried on, and which other forms it has: these are tried with
a few methods, where the library that they need is installed. Of the names of one class the one that its module
is called by stands for all on every backbone. The others are tried on a ViT alone, as are tasks that differ from
another only in what they make of pooled features. What each run does and nobody looks at here, such as the median of
many latencies, is done once, as in the tests (`tests/support/speed.py`).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import yaml

from peftbench.cli.main import main
from peftbench.common.config_files import names
from peftbench.common.task_lookup import shipped_tasks, task_module
from peftbench.config import CONFIGS
from peftbench.config.task_schema import task_path, task_schema

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.speed import Shortcuts, shipped_yaml_once

BACKBONES = {"vit": "vit_nano", "cnn": "resnet_nano", "hybrid": "hybrid_nano", "hierarchical_vit": "swin_t"}
FEW = ["full", "lora", "losa"]
"""With which other forms of a task are tried."""
MOST_PROCESSES = 4
"""Each takes up to 3 GB of memory."""

_shortcuts = Shortcuts()


def words_of_tasks() -> dict[str, tuple[str, ...]]:
    """Task -> the words of its smoke runs. Exits with a sentence where a task has none."""
    words = {name: task_schema({"name": name}).smoke for name in shipped_tasks()}
    if without := sorted(name for name, task_words in words.items() if not task_words):
        sys.exit(f"scripts/smoke.py: the schema of {', '.join(without)} names no data set in SCHEMA.smoke.")
    return words


def variants_there(task: str) -> list[str]:
    """The words of a task's other forms whose libraries are installed; of others it is told what they need."""
    there = []
    for word, module in task_schema({"name": task}).variants.items():
        if module and importlib.util.find_spec(module) is None:
            print(f"smoke: {word} is not tried, since {module} is not installed")
        else:
            there.append(word)
    return there


def names_of_classes() -> tuple[list[str], list[str]]:
    """The methods that are called as their module, and those that are further names of the same classes."""
    first, others = [], []
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        module = content.get("method", content)["path"].split(".")[2]
        (first if module == name else others).append(name)
    return first, others


def sweeps() -> Iterator[tuple[list[str], list[str], tuple[str, ...]]]:
    """(methods, backbones, the words of a task) of each sweep.

    Of the tasks that read pooled features alone the first is tried on every backbone, since a backbone does not know
    which of them reads its features.
    """
    (first, others), seen = names_of_classes(), False
    for task, words in words_of_tasks().items():
        pooled = task_module(task_path({"name": task}), "task").TASK.takes_features
        every = [*BACKBONES.values()] if not (pooled and seen) else [BACKBONES["vit"]]
        seen = seen or pooled
        yield first, every, words
        if others:
            yield others, [BACKBONES["vit"]], words
        for variant in variants_there(task):
            yield FEW, [BACKBONES["vit"], BACKBONES["cnn"]], (*words, variant)


def tried(methods: list[str], backbone: str, task_words: tuple[str, ...]) -> tuple[int, str]:
    """The exit status of the sweep over methods on one backbone, and what it printed."""
    _shortcuts.take()
    words = ["-m", "debug=smoke", f"method={','.join(methods)}", f"backbone={backbone}", "logger=none"]
    # the runs of one sweep are up to 2 GB of weights: they go before the next one begins
    with (
        tempfile.TemporaryDirectory() as output,
        shipped_yaml_once(),
        redirect_stdout(StringIO()) as told,
        redirect_stderr(told),
    ):
        status = main([*words, f"output_dir={output}", *task_words])
    return status, told.getvalue()


def smoke() -> int:
    """The exit status of all sweeps, as many at a time as there are cores; refusals are listed and are no failure."""
    begun, status, cores = time.monotonic(), 0, min(os.cpu_count() or 1, MOST_PROCESSES)
    os.environ["OMP_NUM_THREADS"] = "1"  # each process computes on a core of its own
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PEFTBENCH_CACHE"] = cache
        with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as processes:
            begin = [
                processes.submit(tried, methods, backbone, task_words)
                for methods, backbones, task_words in sweeps()
                for backbone in backbones
            ]
            for done in as_completed(begin):
                ended, told = done.result()
                print(told, flush=True)
                status = max(status, ended)
    print(f"smoke: {time.monotonic() - begun:.0f} s, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(smoke())
