"""Records of three methods on all of VTAB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.reports import TASKS, detection, record, write


@pytest.fixture(scope="session")
def suite(tmp_path_factory) -> Path:
    """Three methods on all of VTAB, three seeds: lora a point better than bitfit, linear far behind."""
    folder, rng = tmp_path_factory.mktemp("suite"), np.random.default_rng(0)
    for method, gain, params, memory in (("linear", -0.2, 0, 1e8), ("bitfit", 0.0, 1e5, 8e8), ("lora", 0.01, 3e5, 1e9)):
        for i, task in enumerate(TASKS):
            for seed in range(3):
                noise = rng.normal(0, 0.002)
                more = {"costs__parameters__method": params, "costs__memory__peak": {"resident": memory},
                        "costs__time__train": 30.0 + params / 1e4,
                        "stamps__data__images": {"test": 10**7}}  # so many that only seeds differ  # fmt: skip
                write(folder, record(method, task, seed, 0.6 + 0.01 * i + gain + noise, **more))
    return folder


@pytest.fixture(scope="session")
def imported_by_report(tmp_path_factory) -> set[str]:
    """What a fresh process has imported after a report on records of classification and of detection."""
    folder = tmp_path_factory.mktemp("imports")
    write(folder, record("lora"), detection("lora"))
    code = f"import json, sys; from peftbench.cli.main import main; assert main(['report', {str(folder)!r}]) == 0"
    code += "; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))
