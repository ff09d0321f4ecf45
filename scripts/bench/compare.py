"""Whether a change made a benchmark slower: the benchmarks of two trees, in alternating runs.

python scripts/bench/compare.py --base DIR [--topic side …] [--runs 3]

DIR is a checkout of the commit to compare with; each tree runs its own benchmarks on its own source. A row is slower
(or larger) where its median is more than 5 % above the base's and outside the range of the base's runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ != "bench":  # started as a file, whose folder is on the path then
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.__main__ import TOPICS
from bench.tables import cells, lines_of, megabytes, seconds, value_of
from bench.timing import ROOT

TOLERANCE = 1.05

NAMES_IN_ONE_FILE = {
    "startup": "help",
    "training_step": "step",
    "optimizers": "ftp",
    "pruning": "pruned",
    "dry_run": "plan",
    "serving": "serve",
    "loading": "vtab",
    "average_precision": "map",
    "detection": "detect",
    "sweeps": "sweep",
    "joint": "together",
}
"""What topics are called in trees that have them all in scripts/bench.py; the others have the same name there."""


@dataclass(frozen=True)
class Comparison:
    """The values of one row in both trees, in seconds, bytes or a bare number."""

    what: str
    unit: str
    base: tuple[float, ...]
    this: tuple[float, ...]

    @property
    def change(self) -> float:
        """This tree's median divided by the base's; 1 where both are zero."""
        base, this = statistics.median(self.base), statistics.median(self.this)
        if base == 0:
            return 1.0 if this == 0 else float("inf")
        return this / base

    @property
    def verdict(self) -> str:
        """`slower` or `faster`, for memory and bare numbers `larger` or `smaller`; empty where neither is shown."""
        more, less = ("slower", "faster") if self.unit == "s" else ("larger", "smaller")
        if self.change > TOLERANCE and statistics.median(self.this) > max(self.base):
            return more
        if self.change < 1 / TOLERANCE and statistics.median(self.this) < min(self.base):
            return less
        return ""

    @property
    def worse(self) -> bool:
        return self.verdict in ("slower", "larger")


def compared(base: Sequence[Mapping[str, str]], this: Sequence[Mapping[str, str]]) -> list[Comparison]:
    """Every row that both trees measured in every run; of each run, the lines of its table by the row's name."""
    comparisons = []
    for what in this[0]:
        if not all(what in run for run in (*base, *this)):
            continue
        values = [[value_of(cells(run[what])[1]) for run in runs] for runs in (base, this)]
        if any(value is None for tree in values for value in tree):
            continue
        numbers = [tuple(value[0] for value in tree if value is not None) for tree in values]
        unit = values[1][0][1] if values[1][0] is not None else ""
        comparisons.append(Comparison(what, unit, numbers[0], numbers[1]))
    return comparisons


def shown(comparisons: Iterable[Comparison]) -> str:
    """The comparisons as a Markdown table: medians, and ranges in brackets."""
    lines = ["| what | base | this tree | change | |", "| --- | --- | --- | --- | --- |"]
    for row in comparisons:
        show = {"s": seconds, "bytes": megabytes}.get(row.unit, "{:g}".format)
        base, this = (
            f"{show(statistics.median(values))} ({show(min(values))} to {show(max(values))})"
            for values in (row.base, row.this)
        )
        lines.append(f"| {row.what} | {base} | {this} | {row.change:.2f} | {row.verdict} |")
    return "\n".join(lines)


def measured(tree: Path, topics: Sequence[str], more: Sequence[str] = ()) -> dict[str, str]:
    """The lines of the table that a tree's own benchmarks print, by the row's name. Ends the program if they fail."""
    script = tree / "scripts" / "bench"
    if not (script / "__main__.py").is_file():
        script = tree / "scripts" / "bench.py"
        topics = [NAMES_IN_ONE_FILE.get(topic, topic) for topic in topics]
    path = os.pathsep.join(filter(None, [str(tree / "src"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(script), *topics, *more]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    lines = lines_of(done.stdout)
    if not lines and done.returncode:  # the status alone is 1 too where a limit is not kept
        problem = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        sys.exit(f"compare: {tree}: {' '.join(topics)} measured nothing: {problem}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where a row is slower or larger."""
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="a checkout of the commit to compare with")
    parser.add_argument("--topic", nargs="+", choices=TOPICS, metavar="TOPIC", default=TOPICS, help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="of each tree; default: 3")
    parser.add_argument("--quick", action="store_true", help="a trial of this tool: fewest repetitions, in both trees")
    options = parser.parse_args(arguments)
    base = options.base.resolve()
    if not (base / "scripts").is_dir():
        parser.error(f"--base={options.base}: has no scripts/; expected a checkout of the project.")
    if options.runs < 1:
        parser.error(f"--runs={options.runs}: expected at least 1.")
    more = ["--quick"] if options.quick else []
    runs: dict[Path, list[dict[str, str]]] = {base: [], ROOT: []}
    for topic in options.topic:
        for number in range(options.runs):
            for tree in (base, ROOT):
                print(f"{topic}, run {number + 1} of {options.runs}, {tree}", file=sys.stderr, flush=True)
                lines = measured(tree, [topic], more)
                if topic == options.topic[0]:
                    runs[tree].append({})
                runs[tree][number] |= lines
    comparisons = compared(runs[base], runs[ROOT])
    print(shown(comparisons))
    for tree, other in ((base, ROOT), (ROOT, base)):
        for what in runs[tree][0].keys() - runs[other][0].keys():
            print(f"only in {tree}: {what}")
    return int(any(row.worse for row in comparisons))


if __name__ == "__main__":
    sys.exit(main())
