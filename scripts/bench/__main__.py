"""The benchmarks (`make bench`): ratios against a peer measured in the same run; `--write` puts them on the page.

python scripts/bench [startup|training_step|side|quickstart|…] [--write] [--quick]

The peer of the side methods and of PETAH is HF peft (pip install 'peftbench[bench]').
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
from datetime import date
from pathlib import Path

if __package__ != "bench":  # started as a folder, which alone is on the path then
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.tables import row_name, table, updated
from bench.timing import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
TOPICS = (
    *("startup", "training_step", "recipe", "less_memory", "side", "quickstart", "optimizers", "spt", "petah"),
    *(
        "pruning",
        "dry_run",
        "serving",
        "loading",
        "average_precision",
        "detection",
        "segmentation",
        "report",
        "run_page",
        "sweeps",
    ),
    *("joint", "solved_heads", "added_branches", "weight_methods", "pooled", "late_blocks"),
    *("lora", "taps", "suite", "exported", "serve"),
)


def machine() -> str:
    """The machine and the versions that figures depend on."""
    import torch

    from peftbench.common.machine import processor_name

    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{processor_name()}, {torch.get_num_threads()} threads, {versions}"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topics", nargs="*", metavar="topic", help=f"{', '.join(TOPICS)}; default: all")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT).as_posix()}")
    parser.add_argument("--page", type=Path, default=PAGE, help="write this page instead")
    parser.add_argument("--quick", action="store_true", help="fewest repetitions: a trial, not a measurement")
    parser.add_argument("--list", action="store_true", help="list the rows of each topic without measuring")
    options = parser.parse_args(arguments)
    topics = options.topics or TOPICS
    if unknown := [topic for topic in topics if topic not in TOPICS]:
        parser.error(f"{', '.join(unknown)}: no such topic; expected {', '.join(TOPICS)}.")
    if options.quick and options.write and options.page.resolve() == PAGE:
        parser.error("--quick measures nothing that belongs on the page; give --page with a copy of it.")
    modules = {topic: importlib.import_module(f"bench.{topic}") for topic in topics}
    if options.list:
        for topic, module in modules.items():
            print(topic, *(f"  {name}" for name in module.names()), sep="\n")
        return 0
    rows = [row for module in modules.values() for row in module.measure(quick=options.quick)]
    assert options.quick or {row_name(r.what) for r in rows} <= {n for m in modules.values() for n in m.names()}
    print(table(rows))
    if options.write:
        page = options.page.read_text(encoding="utf-8")
        written = updated(page, rows, f"{machine()}; {date.today()}")
        options.page.write_text(written, encoding="utf-8", newline="\n")
    return int(any(row.kept is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
