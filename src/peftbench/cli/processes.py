"""One run in several processes: a fresh process group that reads the resolved config, so that sweeps may use it too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peftbench.config import Config
from peftbench.errors import UserError
from peftbench.results import Record


def launch(config: Config, group: str | None) -> Record:
    """Starts `trainer.devices` processes on this machine and returns the record that rank zero wrote.

    Raises:
        UserError: what rank zero reported, or several nodes (they are started by torchrun or srun).
    """
    if config.trainer.nodes > 1:
        raise UserError(
            f"trainer.nodes={config.trainer.nodes}: start the same command on every node with srun or torchrun."
        )
    with tempfile.TemporaryDirectory(prefix="peftbench-") as folder:
        task, answer = Path(folder) / "config.json", Path(folder) / "answer.json"
        task.write_text(json.dumps({"config": config.to_dict(), "group": group}))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={config.trainer.devices}", "-m", "peftbench.cli.rank", str(task), str(answer)]
        threads = str(max(1, (os.cpu_count() or 1) // config.trainer.devices))
        done = subprocess.run(command, env={"OMP_NUM_THREADS": threads} | os.environ, check=False)
        if not answer.is_file():
            raise UserError(f"the processes of this run ended with status {done.returncode} before they began.")
        told = json.loads(answer.read_text())
    if "error" in told:
        raise UserError(told["error"])
    return Record(**told["record"])
