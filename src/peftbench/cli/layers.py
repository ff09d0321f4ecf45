"""`peftbench layers <run folder>`: where a run's budget went."""

from __future__ import annotations

from pathlib import Path

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.common.errors import UserError


def print_layers(words: Words) -> int:
    """Prints the layers of a run that planned them. Raises UserError where there is no such run, or no plan."""
    from peftbench.results import print_layers as print_record_layers
    from peftbench.results import read_record

    record = read_record(Path(words["run"]))
    if record is None:
        raise UserError(f"layers {words['run']}: there is no result.json; give the folder of a run.")
    print_record_layers(record)
    return 0


COMMAND = Command(
    "layers",
    "where an SPT run's budget went",
    print_layers,
    (Argument("run", "the folder of a run", kind="run", placeholder="RUN_FOLDER", place=True, needed=True),),
    expected="one run folder, such as outputs/spt-vit_nano-digits-s0-0123456789",
    examples=("peftbench layers outputs/RUN",),
)
