"""What peftbench does on a GPU, in at most 8 minutes: losses against the CPU's, times and memory against peers.

python scripts/bench/gpu.py [section …] [--pretend] [--minutes 8] [--out FILE]

Prints a table with the chip's name, and writes it to FILE. With `--pretend` the same code runs with the smallest models
where there is no GPU, on the tests' pretended one where the installed torch allows it: that shows that the command
works, and measures nothing. A peer that is not installed (`pip install 'peftbench[bench]'`) leaves its row out.
The exit status is 1 where a section failed, or a loss differs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __package__ != "bench":  # started as a file, whose folder is on the path then
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.gpu_loops import PRETENDED, REAL, Setting
from bench.gpu_rows import SECTIONS
from bench.tables import NOTHING, Row, table
from bench.timing import ROOT


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=f"{', '.join(SECTIONS)}; default: all")
    parser.add_argument("--pretend", action="store_true", help="where there is no GPU: try the command")
    parser.add_argument("--minutes", type=float, default=8.0, help="sections that would begin later are left out")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"{', '.join(unknown)}: no such section; expected {', '.join(SECTIONS)}.")
    import torch

    if not options.pretend and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU; --pretend tries the command without one.")
    chip, rows = measured(options.sections or list(SECTIONS), options.pretend, 60 * options.minutes)
    text = f"{chip}\n\n{table(rows)}\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8", newline="\n")
    return int(any(row.kept is False for row in rows))


def measured(sections: list[str], pretend: bool, seconds: float) -> tuple[str, list[Row]]:
    """The device and the versions, and the rows of these sections; a section that fails is one row that says why."""
    import torch

    setting = PRETENDED if pretend else REAL
    end = time.monotonic() + seconds
    rows: list[Row] = []
    with _place(pretend) as chip:
        for name in sections:
            if time.monotonic() > end:
                rows.append(Row(f"{name}: left out, since the time is over", NOTHING))
                continue
            rows += _guarded(name, SECTIONS[name], setting, end)
    return f"{chip}, torch {torch.__version__}", rows


def _guarded(name: str, section: Callable[[Setting, float], Iterator[Row]], setting: Setting, end: float) -> list[Row]:
    rows: list[Row] = []
    began = time.monotonic()
    try:
        rows += section(setting, end)
    except Exception as problem:  # the rest of the table is worth having
        words = (str(problem).splitlines() or [""])[0][:160]
        rows.append(Row(f"{name}: failed: {type(problem).__name__}: {words}", NOTHING, kept=False))
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return rows


@contextlib.contextmanager
def _place(pretend: bool) -> Iterator[str]:
    """Within it runs are on the GPU, or on the pretended one; the name of what computes."""
    import torch

    if not pretend:
        yield torch.cuda.get_device_name()
        return
    sys.path.append(str(ROOT / "tests"))
    try:
        from support.pretend_gpu import why_not
        from support.pretended_runs import pretended_runs
    except ImportError:
        yield "no GPU: on a CPU, measures nothing"
        return
    if why_not():
        yield f"no GPU: on a CPU ({why_not()}), measures nothing"
        return
    with pretended_runs():
        yield "no GPU: a pretended one, measures nothing"


if __name__ == "__main__":
    sys.exit(main())
