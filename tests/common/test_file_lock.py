"""The lock that everyone uses: one holder, or any number of readers; free again when a process is killed."""

import subprocess
import sys

import pytest

from peftbench.common.file_lock import releasing, take, take_reading, take_unread

HOLDS = """
import sys
from pathlib import Path
from peftbench.common import file_lock

lock = eval(sys.argv[1])(Path(sys.argv[2]), **({"wait": False} if sys.argv[1] == "file_lock.take" else {}))
print("held" if lock else "free", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def elsewhere(tmp_path):
    """`elsewhere("take")` takes the lock in another process, which holds it until it is killed."""
    started = []

    def start(function: str) -> subprocess.Popen:
        words = [sys.executable, "-c", HOLDS, f"file_lock.{function}", str(tmp_path / "lock")]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_one_process_holds_it_and_a_killed_one_holds_nothing(elsewhere, tmp_path):
    other = elsewhere("take")
    with releasing(take(tmp_path / "lock", wait=False)) as held:
        assert not held
    other.kill()
    other.wait()
    with releasing(take(tmp_path / "lock", wait=True)) as held:
        assert held
        assert take(tmp_path / "lock", wait=False) is None
    assert take(tmp_path / "lock", wait=False) is not None


def test_what_is_forgotten_is_free_again(tmp_path):
    lock = take(tmp_path / "lock", wait=False)
    assert take(tmp_path / "lock", wait=False) is None
    del lock
    assert take(tmp_path / "lock", wait=False) is not None


def test_many_read_at_once_and_nobody_alters_what_is_read(elsewhere, tmp_path):
    other, reader = elsewhere("take_reading"), take_reading(tmp_path / "lock")
    assert take_unread(tmp_path / "lock") is None
    reader.release()
    assert take_unread(tmp_path / "lock") is None
    other.kill()
    other.wait()
    alone = take_unread(tmp_path / "lock")
    assert alone is not None
    assert take_unread(tmp_path / "lock") is None
    alone.release()
    assert {p.name for p in tmp_path.iterdir()} <= {"lock"}, "readers that ended leave no files"


@pytest.mark.parametrize("function", [take_reading, take_unread, lambda path: take(path, wait=False)])
def test_a_file_where_the_folder_should_be_is_an_error_of_the_system(tmp_path, function):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OSError):
        function(tmp_path / "taken" / "lock")
