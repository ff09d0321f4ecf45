"""`peftbench serve` as a command: it says where it is, reloads on SIGHUP, and ends well on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.places import ROOT

pytest.importorskip("fastapi", reason="pip install 'peftbench[serve]'")
pytestmark = pytest.mark.slow


def wait(said: Path, words: str, process: subprocess.Popen) -> str:
    end = time.monotonic() + 200
    while words not in (text := said.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < end, text
        time.sleep(0.1)
    return text


def test_no_answer_is_lost_while_tasks_are_reloaded_and_it_ends_well(trained, tmp_path):
    """Of a thousand requests; `PEFTBENCH_LOAD=10000` in the environment makes it ten thousand."""
    folders, data = trained
    said = tmp_path / "said"
    words = f"runs=[digits={folders['losa']},other={folders['other']}]"
    command = [sys.executable, "-m", "peftbench", "serve", words, "port=0", "device=cpu"]
    environment = {**os.environ, "PEFTBENCH_TOKEN": "open-sesame", "PYTHONPATH": str(ROOT / "src")}
    with said.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        url = wait(said, " on http", server).partition(" on ")[2].split()[0]
        requests = os.environ.get("PEFTBENCH_LOAD", "1000")
        asks = [sys.executable, str(ROOT / "scripts" / "serve_load.py"), url, str(data / "test")]
        asks += ["--requests", requests, "--reload-every", str(int(requests) // 5)]
        done = subprocess.run(asks, capture_output=True, text=True, env=environment, timeout=1200)
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert (told["answered"], told["lost"], told["mixed"]) == (int(requests), 0, 0)
        assert told["reloads"] >= 4
        reloaded = said.read_text().count("answers from here on")
        server.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        while said.read_text().count("answers from here on") < reloaded + 2:
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.1)
        end = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < end:  # more than one, up to the end of the interpreter
            server.send_signal(signal.SIGTERM)
            time.sleep(0.02)
        assert server.poll() == 0, said.read_text()
        assert said.read_text().endswith("stopped; all that was asked is answered\n")
    finally:
        server.kill()
        server.wait()
