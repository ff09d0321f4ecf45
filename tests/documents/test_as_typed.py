"""The documents' commands, carried out: in bash, as they are typed, among stand-ins."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import document_world
from support.documents import commands, listed
from support.places import CALTECH

pytestmark = pytest.mark.slow
LISTED = listed()
AS_TYPED = dict.fromkeys(LISTED["as_typed"], "") | LISTED["short"]
FOR_FORMS = [one for some in LISTED["forms"].values() for one in some if one.startswith("peftbench")]
AS_TYPED |= {one: "" for one in FOR_FORMS if one not in AS_TYPED and one not in LISTED["planned"]}
LINES = {c.text: c for c in commands()}


@pytest.mark.parametrize("one", AS_TYPED)
def test_it_runs_as_typed(one, world, tmp_path):
    if "../shared" in one and not CALTECH.is_dir():
        pytest.skip("the sample data is not beside the repository")
    here = document_world.settle(world, tmp_path, tasks="data prepare" not in one)
    line = LINES[one].lines if one in LINES else one
    done = bash(line, world, here, AS_TYPED[one])
    assert done.returncode == LISTED["status"].get(one, 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "refused" not in done.stdout  # a job of a sweep
    if one in LINES and LINES[one].output:
        assert shown(LINES[one].output).fullmatch(" ".join(done.stdout.split())), done.stdout


def bash(line: str, world: Path, here: Path, short: str = "") -> subprocess.CompletedProcess[str]:
    """What bash makes of a line, typed in the folder `here`."""
    program = shutil.which("bash")
    assert program
    environment = document_world.environment(world, short)
    return subprocess.run([program, "-c", line], cwd=here, env=environment, capture_output=True, text=True, timeout=900)


def shown(output: str) -> re.Pattern[str]:
    """What a page shows below a command, in which … stands for anything."""
    return re.compile(re.escape(" ".join(output.split())).replace("…", r"\S+"))
