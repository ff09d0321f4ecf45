"""One process carries out a run at a time: another job of its sweep waits, anybody else is refused.

Two threads contend for the lock as two processes do; `tests/common/test_file_lock.py` has processes that are killed.
"""

import contextlib
import threading
import time

import pytest

from peftbench.common.errors import UserError
from peftbench.runs import folder as owners
from peftbench.runs.folder import owned_folder


@pytest.mark.parametrize(("theirs", "ours"), [("a", "b"), ("a", None), (None, None), (None, "b")])
def test_a_stranger_is_refused(tmp_path, theirs, ours):
    with owned_folder(tmp_path / "run", 0, theirs):
        with pytest.raises(UserError) as refusal, owned_folder(tmp_path / "run", 0, ours):
            pytest.fail("two processes carry out one run")
        assert str(refusal.value) == f"{tmp_path / 'run'}: another process is carrying out this very run; wait for it."
    with owned_folder(tmp_path / "run", 0, ours):  # and then anybody may
        pass


def test_a_job_of_the_same_sweep_waits_until_it_is_over(tmp_path):
    came = threading.Event()

    def wait_for_it() -> None:
        with owned_folder(tmp_path / "run", 0, "a"):
            came.set()

    waiting = threading.Thread(target=wait_for_it, daemon=True)
    with owned_folder(tmp_path / "run", 0, "a"):
        waiting.start()
        assert not came.wait(0.3)
    assert came.wait(30)
    waiting.join(30)


def test_a_job_that_comes_while_another_takes_the_folder_waits_too(tmp_path, monkeypatch):
    """Two jobs of a sweep start at once, in a folder that an earlier sweep had."""
    with owned_folder(tmp_path / "run", 0, "earlier"):
        pass
    replace, writing, refusals = owners.replacing, threading.Event(), []

    @contextlib.contextmanager
    def slowly(path, *further):
        writing.set()
        time.sleep(0.2)
        with replace(path, *further) as part:
            yield part

    def come() -> None:
        try:
            with owned_folder(tmp_path / "run", 0, "a"):
                pass
        except UserError as refusal:
            refusals.append(str(refusal))

    monkeypatch.setattr(owners, "replacing", slowly)
    first, second = (threading.Thread(target=come, daemon=True) for _ in range(2))
    first.start()
    assert writing.wait(30)
    second.start()
    for job in (first, second):
        job.join(30)
    assert refusals == []
