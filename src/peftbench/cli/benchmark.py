"""`peftbench benchmark`: the files of a run, measured on this machine beside the model in torch."""

from __future__ import annotations

import sys

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common import terminal
from peftbench.common.status_line import doing, doing_import


def print_benchmark(words: Words) -> int:
    """Measures, prints the table and says where the figures are. Raises UserError where nothing can be measured."""
    from peftbench.tuned.benchmark.asked import chosen_formats, chosen_threads
    from peftbench.tuned.run_folder import read_finished

    formats, threads = _listed(words["formats"]), chosen_threads(_listed(words["threads"]))
    chosen_formats(formats)
    folder, _, _ = read_finished(words["run"], words["config_dir"])
    doing_import("torch")
    from peftbench.common.progress import watching
    from peftbench.results.formats import print_tables
    from peftbench.results.shipped import FILE, TABLE, tables_of
    from peftbench.tuned.benchmark.measuring import benchmark

    doing(f"measuring {folder.name}")
    with watching(terminal.console(stderr=True)) as watch:
        made = benchmark(
            words["run"],
            formats,
            words["images"],
            words["labels"],
            threads=threads,
            seconds=words["seconds"],
            force=words["force"],
            config_dir=words["config_dir"],
            watch=watch,
        )
    print_tables(tables_of([made]), terminal.console())
    print(f"{folder / TABLE}\n{folder / FILE}", file=sys.stdout)
    return 0


def _listed(word: str) -> list[str]:
    """The entries of a list, written with brackets or without."""
    return [entry for part in word.strip("[]()").split(",") if (entry := part.strip(" '\""))]


COMMAND = Command(
    "benchmark",
    "size, accuracy, latency and memory of a run's files",
    print_benchmark,
    (
        Argument("run", "the folder of a finished run", kind="run", needed=True),
        Argument(
            "formats",
            "torch, onnx, onnx-int8, …; by default all whose libraries are here",
            default="",
            placeholder="[…]",
        ),
        Argument("images", "labelled images, in the place of the run's test images", kind="folder"),
        Argument("labels", "a CSV with their labels, where class folders do not tell", kind="file"),
        Argument("threads", "numbers of threads", default="1", placeholder="N,…"),
        Argument("seconds", "of a turn; there are five for each format and size of batch", kind="number", default=0.4),
        Argument("force", "replace figures of another machine or of other images", kind="flag", default=False),
        CONFIG_DIR,
    ),
    examples=(
        "peftbench benchmark run=outputs/RUN",
        "peftbench benchmark run=outputs/RUN formats=[torch,onnx] threads=1,2",
    ),
)
