"""What the tests of preparing and checking VTAB-1k share: stand-ins of the sources, and all tasks made from them."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest

from support import standins
from support.standins import WORDS
from support.vtab import Cli


@pytest.fixture
def data(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`data(verb, *words)`: peftbench data, with `<tmp_path>/data` for the data's place."""
    from peftbench.cli.main import main

    monkeypatch.setenv("PEFTBENCH_DATA", str(tmp_path / "data"))

    def call(*words: str) -> tuple[int, str, str]:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = main(["data", *words])
        return status, out.getvalue(), err.getvalue()

    return call


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins of every source; they are read, never written."""
    pytest.importorskip("h5py")
    return standins.make_all(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def prepared(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All 19 tasks, made from the stand-ins: (their folder, what was told)."""
    from peftbench.cli.main import main

    root = tmp_path_factory.mktemp("vtab")
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main(["data", "prepare", "vtab", f"dir={root}", f"archives={archives}", *WORDS]) == 0, told.getvalue()
    return root, told.getvalue()


@pytest.fixture
def task(prepared: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of a prepared task, eurosat, to be damaged."""
    return Path(shutil.copytree(prepared[0] / "eurosat", tmp_path / "copies" / "eurosat"))
