"""One process of a run in several: started by `processes.py`, told its rank by torchrun."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from peftbench.config import Config
from peftbench.errors import UserError


def main(task: str, answer: str) -> int:
    """Runs the config in the file `task`; rank zero writes its record, or its error, to `answer`."""
    from peftbench.pipeline import run

    told = json.loads(Path(task).read_text())
    status = 0
    try:
        reply = {"record": dataclasses.asdict(run(Config.from_dict(told["config"]), told["group"]))}
    except UserError as mistake:
        reply, status = {"error": str(mistake)}, 2
    if os.environ.get("RANK", "0") == "0":
        Path(answer).write_text(json.dumps(reply))
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
