"""What all tests share: the command line in process, the smallest real run, and what it leaves."""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("support")  # what its helpers assert is told as fully as in a test

from support.speed import Shortcuts, shipped_yaml_once  # noqa: E402

os.environ["PEFTBENCH_CACHE"] = tempfile.mkdtemp(prefix="peftbench-taps-")  # never the cache of whoever runs the tests
atexit.register(shutil.rmtree, os.environ["PEFTBENCH_CACHE"], ignore_errors=True)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: no test asks the network

# How fast inputs are made and tests run says something of the machine alone.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

if importlib.util.find_spec("absl"):  # TensorBoard's, and OpenVINO takes it too
    # It closes what was stderr when it was imported, here pytest's own file, as soon as anybody configures logging.
    importlib.import_module("absl.logging").get_absl_handler().python_handler.stream = sys.__stderr__

Result = tuple[int, str, str]
atexit.register(gc.unfreeze)
_shortcuts = Shortcuts()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of backbones, and of what is cut out of them, see everything done anew."""
    _shortcuts.take()
    _shortcuts.facts_known = not {"backbones", "pruning"} & set(item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def shipped_yaml_parsed_once() -> Iterator[None]:
    """`support.speed.shipped_yaml_once`, throughout."""
    with shipped_yaml_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """No test cuts the power, so none waits until what it wrote is safe on a disk: 70 ms a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """`cli(*words)` runs the command line with `output_dir=<tmp_path>` and returns (status, stdout, stderr)."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)

    def call(*words: str) -> Result:
        from peftbench.cli.main import main

        place = [] if any(w.startswith("output_dir=") for w in words) else [f"output_dir={tmp_path}"]
        capsys.readouterr()
        status = main([*words, *place])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides of the fastest real run; `method=` is left to the test."""
    return [
        "backbone=resnet_nano",
        "backbone.pretrained=false",
        "data=digits",
        "data.size=32",
        "trainer.epochs=1",
        "trainer.max_batches=2",
        "data.batch_size=16",
        "trainer.progress=false",
    ]


@pytest.fixture(scope="session")
def finished(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a linear probe that ran to its end."""
    from peftbench.cli.main import main

    output = tmp_path_factory.mktemp("finished")
    assert main([*tiny, "method=linear", f"output_dir={output}"]) == 0
    return output


@pytest.fixture
def stopped(cli: Callable, tiny: list[str], finished: Path, tmp_path: Path) -> tuple[Callable, Path]:
    """A copy of the finished probe that has lost its record: (the same command again, its run folder)."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (record,) = tmp_path.glob("*/result.json")
    record.unlink()
    return lambda *words: cli(*tiny, "method=linear", *words), record.parent
