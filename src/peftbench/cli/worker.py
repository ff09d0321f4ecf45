"""One process of a run in several, started by `processes.py`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.regular_files import text_in
from peftbench.common.status_line import doing_import, status_line
from peftbench.common.stopping import endings_as_interrupts
from peftbench.config import Config


def main(task: str, answer: str) -> int:
    """Runs the config in the file `task` and writes its record, or its error, to `answer`."""
    try:
        with endings_as_interrupts():
            return _reply(task, answer)
    except KeyboardInterrupt:  # stopped before the run had begun
        return 130


def _reply(task: str, answer: str) -> int:
    asked = json.loads(text_in(task))
    reply: dict[str, Any] = {}
    status = 1
    try:
        config = Config.from_dict(asked["config"])
        with status_line(config.trainer.progress and os.environ.get("RANK", "0") == "0"):
            doing_import("torch")
            from peftbench.runs.run import run as train_config

            record = train_config(config, asked["group"], asked["retry"])
        reply = {"record": dataclasses.asdict(record)}
        status = 0
    except UserError as mistake:
        reply, status = {"error": str(mistake), "of": mistake.of, "begun": mistake.begun}, 2
    finally:
        Path(answer).write_text(json.dumps(reply), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
