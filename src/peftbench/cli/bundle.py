"""`peftbench bundle`: one exported backbone, and a small graph for each task."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.cli.named_runs import RUNS, named_runs, read_all
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing, doing_import


def write_bundle(words: Words) -> int:
    """Adds runs, goes back to an earlier version, or says what is there.

    Raises:
        UserError: as `bundle_runs`, `roll_back` and `open_bundle`.
    """
    if words["rollback"] is not None:
        if words["runs"] is not None:
            raise UserError("rollback: takes no runs beside it; give one of both.")
        return _roll_back(words["out"], words["rollback"])
    if words["runs"] is None:
        if not Path(words["out"]).expanduser().exists():
            raise UserError(f"out={words['out']}: there is no such folder; give runs=[outputs/RUN] to make a bundle.")
        doing_import("torch")
        return _tell(words["out"])
    runs = named_runs(words["runs"])
    read_all(runs, words["config_dir"])
    doing_import("torch")
    from peftbench.tuned.bundle import bundle_runs

    done = bundle_runs(runs, words["out"], words["weights"], words["config_dir"], doing)
    for name, became in done.items():
        print(f"{name}: version {became.version}, {became.how}")
    return _tell(words["out"])


def _roll_back(out: str, task: str) -> int:
    doing_import("torch")
    from peftbench.tuned.bundle import roll_back

    before, now = roll_back(out, task)
    print(f"{task}: version {now} is in use again, and {before} is kept")
    return 0


def _tell(out: str) -> int:
    """Opens every task that is in use, and prints what the bundle takes."""
    from peftbench.common.amounts import milliseconds, plural, size
    from peftbench.tuned.bundle import open_bundle

    doing("opening the tasks")
    bundle = open_bundle(out)
    spent = []
    for name, entry in bundle.manifest.tasks.items():
        bundle.task(name)  # checked, and in the system's cache
        begun = time.perf_counter()
        bundle.task(name)
        spent.append(time.perf_counter() - begun)
        used = entry.version
        older = len(entry.versions) - 1
        more = f", {plural(older, 'other version')} kept" if older else ""
        sizes = f"{size(used.bytes):>8}, whole {size(used.whole):>8}"
        print(f"{name:<16} version {entry.current}  {sizes}  {used.method}{more}")
    used_bytes, copies = bundle.manifest.sizes()
    base = sum(file.bytes for file in bundle.manifest.base.files.values())
    print(
        f"{plural(len(spent), 'task')}: {size(used_bytes)} with a backbone of {size(base)}; as full copies "
        f"{size(copies)}: {used_bytes / copies:.2f} of them"
    )
    print(f"to another task: {milliseconds(statistics.median(spent))} in onnxruntime, hash of its graph included")
    return 0


COMMAND = Command(
    "bundle",
    "one exported backbone with a small graph for each task",
    write_bundle,
    (
        replace(RUNS, needed=False, shown=True),
        Argument("out", "the folder of the bundle; what is there is added to", kind="folder", needed=True),
        Argument("rollback", "the task whose version before is to be used again", placeholder="TASK"),
        Argument("weights", "the backbone's weights, where the runs' own are gone", kind="file"),
        CONFIG_DIR,
    ),
    description="A task that is there gets a new version; old ones stay for rollback.\nWithout runs it checks every "
    "file and says what is there.",
    examples=(
        "peftbench bundle runs=[digits=outputs/RUN,more=outputs/ANOTHER] out=bundle",
        "peftbench bundle rollback=digits out=bundle",
    ),
)
