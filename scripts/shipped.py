"""The tables of docs/shipping.md: two runs on photographs, and all files of them that run here.

python scripts/shipped.py [--output DIR] [--threads 1,2] [FORMAT …]

A run, a file or a figure that is in DIR is not made again, so that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import peftbench
from peftbench.results.formats import to_markdown
from peftbench.results.shipped import read_benchmark, tables_of
from peftbench.tuned.benchmark.asked import chosen_formats
from peftbench.tuned.benchmark.measuring import benchmark

PAGE = Path(__file__).parents[1] / "docs" / "shipping.md"
RUNS = (
    ["method=petah", "backbone=hybrid_nano", "data=photos", "trainer.epochs=8"],
    [
        "method=lora",
        "backbone=efficientnet_lite0",
        "data=photos",
        "data.size=128",
        "trainer.epochs=6",
        "optimizer.lr=5e-3",
    ],
)


def section(folders: list[Path]) -> str:
    """The end of the page: how its tables are made, and one for each run."""
    commands = "".join(f"    peftbench {' '.join(words)}\n" for words in RUNS)
    parts = [
        f"## On two runs\n\n{commands}    python scripts/shipped.py\n",
        "The last command trains both where they are not there, exports all files, measures them, and writes the\n"
        "tables anew. They hold what one machine gave; an idle one gives steadier figures.\n",
    ]
    for words, folder in zip(RUNS, folders, strict=True):
        found = read_benchmark(folder)
        assert found is not None
        table = to_markdown(tables_of([found], f"{words[0]} {words[1]}"))
        table = re.sub(r"Linux-[^;]+", "Linux", table)  # no build of a kernel
        rows = table.partition("## ")[2].partition("\n")[2]  # below its own heading, which escapes underscores
        parts.append(f"### `{words[0]} {words[1]}`\n{rows}")
    return "\n".join(parts).strip() + "\n"


def main() -> None:
    """Makes what is missing, and writes the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", help="by default all whose libraries are here")
    parser.add_argument("--output", default="outputs")
    parser.add_argument("--threads", default="1")
    given = parser.parse_args()
    threads = [int(word) for word in given.threads.split(",")]
    folders = []
    for words in RUNS:
        quiet = ["trainer.progress=false", "logger=none", f"output_dir={given.output}"]
        record = peftbench.run(peftbench.compose(*words, *quiet))
        folder = Path(record.folder)
        there = read_benchmark(folder)
        done = {(row.format, row.threads) for row in there.rows} if there else set()
        wanted = {(each.name, number) for each in chosen_formats(given.formats) for number in threads}
        if not wanted <= done:
            benchmark(folder, given.formats, threads=threads)
        folders.append(folder)
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(r"## On two runs\n.*\Z", lambda _: section(folders), page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
