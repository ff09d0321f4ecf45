"""What a killed process leaves in a run's folder is removed by the next command for it, and nothing else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.cli.main import main
from peftbench.common.leftovers import ASIDE

KILLED = """
import os, pathlib, signal, sys
from peftbench.common.atomic_files import replacing
with replacing(pathlib.Path(sys.argv[1], "delta.safetensors")) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_EXPORT = """
import os, pathlib, signal, sys
from peftbench.tuned.export.placing import made_aside
with made_aside(pathlib.Path(sys.argv[1], "m.onnx")) as folder:
    (folder / "m.onnx").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave(folder: Path, code: str) -> Path:
    before = set(folder.iterdir())
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode < 0
    (part,) = set(folder.iterdir()) - before
    return part


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    (whole,) = finished.glob("linear-*")
    return Path(shutil.copytree(whole, tmp_path / whole.name))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_next_command_removes_what_is_ours_and_dead(run, cli, tiny, tmp_path):
    part = leave(run, KILLED)
    assert part.name.startswith(".delta.safetensors.")
    other = run / part.name.replace(part.name.split(".")[-2].split("-")[0], "0" * 8)  # of another machine
    alive = run / f".a.{part.name.split('.')[-2].split('-')[0]}-1.part"  # of a process that lives
    mine = [other, alive, run / ".notes.part", run / ".delta.safetensors.12.part", run / "delta.part"]
    for file in mine:
        file.write_text("mine")
    (run / f".b{part.name}").symlink_to(mine[2])
    assert main(["predict", f"run={run}", "images=nothing.png"]) == 2
    assert not part.exists()
    assert [file.read_text() for file in mine] == ["mine"] * 5
    assert (run / f".b{part.name}").is_symlink()
    part.write_text("half")
    status, _, err = cli(*tiny, "method=linear")  # the run again, which is complete
    assert status == 0, err
    assert not part.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_so_is_the_folder_of_an_export_unless_it_holds_what_was_there_before(run):
    part = leave(run, KILLED_EXPORT)
    assert part.is_dir()
    (part / ASIDE).mkdir()
    assert main(["predict", f"run={run}", "images=nothing.png"]) == 2
    assert part.exists()
    (part / ASIDE).rmdir()
    assert main(["predict", f"run={run}", "images=nothing.png"]) == 2
    assert not part.exists()
