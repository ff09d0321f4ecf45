"""One process carries out a run at a time: another job of its sweep waits, anybody else is refused."""

import subprocess
import sys
import threading

import pytest

from peftbench.common.errors import UserError
from peftbench.runs.folder import owned_folder

OWNS = """
import sys
from pathlib import Path
from peftbench.runs.folder import owned_folder

with owned_folder(Path(sys.argv[1]), 0, sys.argv[2] or None):
    print("owned", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def owner(tmp_path):
    """`owner("sweep")` is another process of that sweep that carries out the run, until it is told to end or killed."""
    started = []

    def start(group: str) -> subprocess.Popen:
        words = [sys.executable, "-c", OWNS, str(tmp_path / "run"), group]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "owned\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("theirs", "ours"), [("a", "b"), ("a", None), ("", None), ("", "b")])
def test_a_stranger_is_refused(owner, tmp_path, theirs, ours):
    owner(theirs)
    with pytest.raises(UserError) as refusal, owned_folder(tmp_path / "run", 0, ours):
        pytest.fail("two processes carry out one run")
    assert str(refusal.value) == f"{tmp_path / 'run'}: another process is carrying out this very run; wait for it."


@pytest.mark.parametrize("killed", [False, True])
def test_a_job_of_the_same_sweep_waits_until_it_is_over(owner, tmp_path, killed):
    other = owner("a")
    came = threading.Event()

    def wait_for_it() -> None:
        with owned_folder(tmp_path / "run", 0, "a"):
            came.set()

    waiting = threading.Thread(target=wait_for_it, daemon=True)
    waiting.start()
    assert not came.wait(0.5)
    if killed:
        other.kill()
    else:
        other.communicate("\n")
    assert came.wait(30)
    waiting.join(30)
    with owned_folder(tmp_path / "run", 0, None):  # and then anybody may
        pass
