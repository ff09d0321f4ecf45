"""The fault campaign (`make faults`): damaged files, hostile words, kills and full disks, and how peftbench ended.

python scripts/faults [--seed N] [--tries N] [--minutes M] [--kinds run words …] [--out FILE] [--write]

Tries run in one warm process; a run that is to be killed is a copy of it. What hangs is ended by an alarm; a process
that ends all the same, or hangs where no alarm reaches it, is told of, and another goes on behind the try that ended
it. A try depends on the seed and its number alone: `--only N` repeats one. The status is 1 where anything is silent,
lost, a traceback or a hang.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path

if __package__ != "faults":  # started as a folder, which alone is on the path then
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from faults import configs, datasets, disks, kills, overrides, records
from faults.page import written
from faults.verdicts import HANG, REFUSED, SECONDS, SURVIVED, TRACEBACK, VERDICTS
from faults.world import ROOT, World

KINDS = {  # with how many of every hundred tries are of it
    "run": (records.try_run, 24),
    "entry": (records.try_entry, 3),
    "config": (configs.try_config, 15),
    "archive": (configs.try_archive, 16),
    "weights": (configs.try_weights, 4),
    "words": (overrides.try_words, 24),
    "files": (datasets.try_files, 6),
    "kill": (kills.try_kill, 3),
    "two": (kills.try_two, 0.5),
    "reader": (kills.try_reader, 0.5),
    "full": (disks.try_full, 2),
    "rights": (disks.try_rights, 1.5),
    "removed": (disks.try_removed, 0.5),
}
PAGE = ROOT / "docs" / "reliability.md"
SUMMARY = ROOT / "docs" / "reliability.json"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where a try ended as none should."""
    parser = argparse.ArgumentParser(
        prog="faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60.0, help="end then, however many tries are left")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", type=int, help="the number of the one try to make")
    parser.add_argument("--all", action="store_true", help="print what survived and what was refused, too")
    parser.add_argument("--out", type=Path, help="write the summary as JSON to this file")
    parser.add_argument(
        "--write", action="store_true", help="write it to docs/reliability.json, and its table to the page"
    )
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)  # of the process that tries
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.journal:
        return work(asked)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="peftbench-faults-") as folder:
        os.chmod(folder, 0o755)  # some tries are another user's
        lines = watched(asked, Path(folder), begun + 60 * asked.minutes)
    summary = summarised(lines, asked.seed, time.monotonic() - begun)
    for line in lines:
        if "verdict" in line and (asked.all or line["verdict"] not in (SURVIVED, REFUSED)):
            print(f"{line['number']} {line['verdict']}: {line['kind']}: {line['what']}\n    {line['why'][-700:]}")
    print(json.dumps(summary, indent=1))
    for kind in KINDS:
        seconds = [line["seconds"] for line in lines if "seconds" in line and line["kind"] == kind]
        if seconds:
            print(
                f"{kind}: {len(seconds)} tries of {sum(seconds) / len(seconds):.1f} s, the longest {max(seconds):.1f} s"
            )
    if asked.out:
        asked.out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if asked.write:
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), summary), encoding="utf-8")
    bad = sum(summary["all"][verdict] for verdict in VERDICTS if verdict not in (SURVIVED, REFUSED))
    return 1 if bad else 0


def chosen(number: int, seed: int, kinds: list[str]) -> str:
    """The kind of a try."""
    rng = random.Random(f"{seed}/{number}/kind")
    return rng.choices(kinds, [KINDS[kind][1] for kind in kinds])[0]


def work(asked: argparse.Namespace) -> int:
    """Makes the tries and writes a line on each, before it and after."""
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", PEFTBENCH_CACHE=str(asked.journal.parent / "cache"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    world = World.made(asked.journal.parent / "world")
    numbers: Iterable[int] = [asked.only] if asked.only is not None else itertools.count(asked.begin)
    made = sum("verdict" in entry for entry in read(asked.journal))
    with asked.journal.open("a", encoding="utf-8", buffering=1) as journal:
        for number in numbers:
            if made >= asked.tries:
                break
            kind = chosen(number, asked.seed, asked.kinds)
            journal.write(json.dumps({"begin": number, "kind": kind}) + "\n")
            faulthandler.dump_traceback_later(6 * SECONDS, exit=True)  # in C no alarm is heard
            begun = time.monotonic()
            verdicts = KINDS[kind][0](random.Random(f"{asked.seed}/{number}"), world)
            faulthandler.cancel_dump_traceback_later()
            made += len(verdicts)
            for verdict in verdicts:
                line = {"number": number, "kind": kind, **vars(verdict)}
                journal.write(json.dumps(line) + "\n")
            journal.write(json.dumps({"end": number, "kind": kind, "seconds": time.monotonic() - begun}) + "\n")
    return 0


def watched(asked: argparse.Namespace, folder: Path, deadline: float) -> list[dict]:
    """Starts the process that tries, and another behind each try that ends it; the lines of its journal."""
    journal, errors = folder / "journal", folder / "errors"
    begin, lost = asked.begin, []
    while True:
        words = [sys.executable, str(Path(__file__).parent), "--journal", str(journal), "--begin", str(begin)]
        words += ["--seed", str(asked.seed), "--tries", str(asked.tries), "--kinds", *asked.kinds]
        words += ["--only", str(asked.only)] if asked.only is not None else []
        with errors.open("w") as told:
            process = subprocess.Popen(words, stdout=told, stderr=told, cwd=folder)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
            if process.poll() is None:
                process.kill()
                process.wait()
                break
        entries = read(journal)
        if process.returncode == 0:
            break
        began = [entry for entry in entries if "begin" in entry]
        if not began or (began[-1]["begin"] < begin):
            raise SystemExit(f"the campaign itself failed:\n{errors.read_text()[-3000:]}")
        number, kind = began[-1]["begin"], began[-1]["kind"]
        why = errors.read_text()[-700:]
        hung = "Timeout (" in why
        lost.append(
            {"number": number, "kind": kind, "what": "the process", "verdict": HANG if hung else TRACEBACK, "why": why}
        )
        begin = number + 1
        if asked.only is not None:
            break
    unmounted(folder)
    return [entry for entry in read(journal) if "verdict" in entry or "seconds" in entry] + lost


def unmounted(folder: Path) -> None:
    """Takes away the small disk of a try that was cut off."""
    subprocess.run(["umount", "-l", str(folder / "world" / "try" / "disk")], capture_output=True, check=False)


def read(journal: Path) -> list[dict]:
    """The lines that are whole."""
    lines = journal.read_text(encoding="utf-8").split("\n")[:-1] if journal.is_file() else []
    return [json.loads(line) for line in lines]


def summarised(lines: list[dict], seed: int, seconds: float) -> dict:
    """How many tries of each kind ended how."""
    kinds: dict[str, collections.Counter] = {kind: collections.Counter() for kind in KINDS}
    for line in lines:
        if "verdict" in line:
            kinds[line["kind"]][line["verdict"]] += 1
    table = {k: {"tries": c.total(), **{v: c[v] for v in VERDICTS}} for k, c in kinds.items() if c.total()}
    whole = {v: sum(row[v] for row in table.values()) for v in ("tries", *VERDICTS)}
    return {"seed": seed, "made": date.today().isoformat(), "seconds": round(seconds), "all": whole, "kinds": table}


if __name__ == "__main__":
    if shutil.which("mount") is None:
        print("note: without mount no small disk is made; files are limited in size instead", file=sys.stderr)
    sys.exit(main())
