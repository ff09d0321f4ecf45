"""Sweeps in processes of their own, and the optional packages that launch them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.forks import python


def records(folder: Path) -> dict[str, dict]:
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("[!.]*/result.json"))]
    return {r["id"]: r for r in found}


def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [python(), "-m", "peftbench.cli.main", *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=900)


def needs(module: str) -> None:
    """Skips without an optional package. Where PEFTBENCH_LAUNCHERS=required (as in .ci/run) that is a failure."""
    if os.environ.get("PEFTBENCH_LAUNCHERS") == "required":
        __import__(module)
    pytest.importorskip(module, reason=f"the optional package with {module} is not installed")


PLUGIN = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


def plugin(launcher: str) -> None:
    needs(f"hydra_plugins.hydra_{PLUGIN[launcher]}_launcher")
