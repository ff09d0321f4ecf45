"""`peftbench share`: what tasks take from one backbone, against as many full copies."""

from __future__ import annotations

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.status_line import doing, doing_import


def print_shared_costs(words: Words) -> int:
    """Prints storage and memory of the runs in the given folders. Raises UserError where they share no backbone."""
    from peftbench.common.amounts import plural, size
    from peftbench.tuned.run_folder import read_finished

    for run in words["runs"]:
        read_finished(run, words["config_dir"])
    doing_import("torch")
    from peftbench.tuned.multitask import MultiTask

    doing("building the models")
    report = MultiTask(None, words["runs"], words["config_dir"]).report()
    print(f"{plural(report['tasks'], 'task')}, backbone {size(report['backbone'])}")
    for what in ("storage", "memory"):
        shared, copies = report[what]["shared"], report[what]["copies"]
        print(f"{what:<8} {size(shared):>8}, as full copies {size(copies):>8}: {shared / copies:.2f} of them")
    return 0


COMMAND = Command(
    "share",
    "storage and memory of several runs on one backbone",
    print_shared_costs,
    (
        Argument("runs", "folders of finished runs", kind="run", place=True, several=True, needed=True),
        CONFIG_DIR,
    ),
    expected="folders of finished runs of one backbone",
    examples=("peftbench share outputs/RUN outputs/ANOTHER",),
)
