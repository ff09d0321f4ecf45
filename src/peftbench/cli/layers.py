"""`peftbench layers <run folder>`: where a run's budget went."""

from __future__ import annotations

from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.results import print_layers, read_record


def run(arguments: list[str]) -> int:
    """Prints the layers of a run that planned them. Raises UserError where there is no such run, or no plan."""
    after = arguments[arguments.index("layers") + 1 :]
    if len(after) != 1:
        raise UserError("layers: expected one run folder, such as outputs/spt-vit_nano-digits-s0-0123456789.")
    record = read_record(Path(after[0]))
    if record is None:
        raise UserError(f"layers {after[0]}: there is no result.json; give the folder of a run.")
    print_layers(record)
    return 0
