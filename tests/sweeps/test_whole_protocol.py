"""The whole protocol of VTAB-1k on stand-ins: killed half-way, resumed, and reported."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import standins
from support.sweeps import needs, plugin, records, start


@pytest.fixture(scope="module")
def vtab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 19 tasks, prepared from stand-ins of their sources in the true formats; in one split, for a mean."""
    needs("h5py")
    archives = standins.make_all(tmp_path_factory.mktemp("sources"))
    folder = tmp_path_factory.mktemp("prepared")
    made = start(
        "data", "prepare", "vtab", f"dir={folder}", f"archives={archives}", "split=peftbench-v1", *standins.WORDS
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "ray"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_the_whole_protocol_killed_half_way_and_resumed_then_reported(vtab, tmp_path, launcher):
    plugin(launcher)
    out = tmp_path / "out"
    words = ["-m", "protocol=vtab1k", "protocol.trials=1", "protocol.seeds=2", "sweep.grid={optimizer.lr:[1e-2]}"]
    words += [
        "data=glob(vtab/*)",
        f"data.root={vtab}",
        "backbone=resnet_nano",
        "backbone.pretrained=false",
        "data.size=32",
    ]
    words += [
        "trainer.epochs=1",
        "trainer.progress=false",
        "logger=none",
        f"hydra/launcher={launcher}",
        f"output_dir={out}",
    ]
    words += ["method=linear,bitfit,full", "data.batch_size=4"]
    command = [sys.executable, "-m", "peftbench.cli.main", *words]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    victim = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=env
    )
    deadline = time.monotonic() + 600
    while len(list(out.glob("*/delta.safetensors"))) < 60 and time.monotonic() < deadline and victim.poll() is None:
        time.sleep(0.2)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    complete = [name for name, record in records(out).items() if record["status"] == "complete"]
    before = {p: p.stat().st_mtime_ns for name in complete for p in [out / name / "delta.safetensors"]}
    assert 50 <= len(before) < 3 * 19 * 3
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=1800)
    assert done.returncode == 0, done.stderr
    found = records(out)
    assert len(found) == 3 * 19 * 3
    assert {r["status"] for r in found.values()} == {"complete"}
    assert {p: p.stat().st_mtime_ns for p in before} == before, "what was complete was not run again"
    assert "mean of groups" in done.stdout
    told = start("report", str(out), "--format=csv")
    assert told.returncode == 0, told.stderr
    means = [line for line in told.stdout.splitlines() if ",mean of groups," in line]
    assert len(means) == 3
    assert all(re.search(r",mean of groups,0\.\d+,0\.\d+,2,", line) for line in means), means
    chosen = start("choose", str(out), "max_params=0.1M")
    assert chosen.returncode == 0, chosen.stdout
    assert "all 19 tasks: " in chosen.stdout
