"""Runs that are stopped from outside: they save, say so, end with 130, and go on to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peftbench.cli.main import main
from peftbench.results import Record, read_record
from peftbench.runs.run import run, run_jointly
from peftbench.training.module import Fit
from support.finished_runs import same
from support.forks import python
from support.runs import QUICK, compose, learned

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
WORDS = ["method=bitfit", "data.eval_batch_size=40"]  # two epochs, three batches of validation each


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return run(compose(tmp_path_factory.mktemp("undisturbed"), *WORDS))


def during(patch: pytest.MonkeyPatch, step: str, at: int, act: Callable[[], None]) -> None:
    """Has `act` happen in the `at`-th call of a step of `Fit`."""
    call, calls = getattr(Fit, step), []

    def stepping(self: Fit, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == at:
            act()
        return call(self, *arguments)

    patch.setattr(Fit, step, stepping)


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture
def heeded() -> Iterator[None]:
    """SIGHUP is not ignored, as it is where the tests run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def equals(resumed: Record, expected: Record) -> None:
    """Weights, metrics and history are equal to the bit."""
    assert same(learned(resumed), learned(expected))
    assert resumed.metrics == expected.metrics
    assert len(resumed.history) == len(expected.history)
    for ours, theirs in zip(resumed.history, expected.history, strict=True):
        assert {k: v for k, v in ours.items() if k != "train_seconds"} == {
            k: v for k, v in theirs.items() if k != "train_seconds"
        }


@needs_signals
@pytest.mark.parametrize(
    ("name", "step", "at"),
    [
        ("SIGTERM", "validation_step", 2),
        ("SIGTERM", "validation_step", 5),  # the last epoch's
        pytest.param("SIGHUP", "validation_step", 3, marks=pytest.mark.slow),  # its last batch
        pytest.param("SIGTERM", "training_step", 3, marks=pytest.mark.slow),  # validation begins with the wish to stop
        pytest.param("SIGINT", "test_step", 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_saves_and_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, heeded, undisturbed, name, step, at
):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        during(patch, step, at, send(signal.Signals[name]))
        stopped = run(compose(tmp_path, *WORDS))
    assert signal.getsignal(signal.SIGTERM) == before
    assert stopped.status == read_record(Path(stopped.folder)).status == "interrupted"
    assert stopped.reason == "stopped by the user; the same command resumes it"
    resumed = run(compose(tmp_path, *WORDS))
    assert resumed.costs["time"]["sessions"] == 2
    assert resumed.costs["time"]["validate"] > 0
    equals(resumed, undisturbed)
    epochs = (Path(resumed.folder) / "metrics.csv").read_text().splitlines()
    assert len(epochs) == 3
    assert all("" not in row.split(",") for row in epochs), "each epoch's row has its validation"


@needs_signals
@pytest.mark.slow
def test_runs_together_that_are_stopped_in_validation_go_on_to_the_same_bits(tmp_path, monkeypatch):
    def configs(folder: str) -> list:
        words = ["method=linear", "data.eval_batch_size=40", "taps=memory"]
        return [compose(tmp_path / folder, *words, f"optimizer.lr={rate}") for rate in (0.01, 0.1)]

    expected = run_jointly(configs("a"))
    with monkeypatch.context() as patch:
        during(patch, "validation_step", 5, send(signal.SIGTERM))
        assert {r.status for r in run_jointly(configs("b"))} == {"interrupted"}
    for resumed, theirs in zip(run_jointly(configs("b")), expected, strict=True):
        equals(resumed, theirs)


@pytest.mark.parametrize(
    "write",
    [pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)],
    ids=["before the first record", "between the records"],
)
def test_runs_together_that_are_killed_at_the_end_are_not_trained_anew(tmp_path, monkeypatch, write):
    def configs() -> list:
        words = ["method=linear", "data.eval_batch_size=40", "taps=memory", "trainer.max_batches=2"]
        return [compose(tmp_path, *words, f"optimizer.lr={rate}") for rate in (0.01, 0.1, 1.0)]

    written: list[Record] = []

    def kill(record: Record, folder: Path) -> None:
        if record.status == "complete":
            written.append(record)
            if len(written) >= write:
                raise SystemExit(9)
        write_record(record, folder)

    write_record = Record.write
    with monkeypatch.context() as patch:
        patch.setattr(Record, "write", kill)
        with pytest.raises(SystemExit):
            run_jointly(configs())
    done = {p: p.read_bytes() for p in tmp_path.glob("*/result.json") if '"complete"' in p.read_text()}
    assert len(done) == write - 1
    monkeypatch.setattr(Fit, "on_train_batch_start", lambda *_: pytest.fail("it is trained already"))
    monkeypatch.setattr("peftbench.training.joint.JointFit.training_step", lambda *_: pytest.fail("it trains anew"))
    resumed = run_jointly(configs())
    assert [r.status for r in resumed] == ["complete"] * 3
    assert [read_record(Path(r.folder)).metrics for r in resumed] == [r.metrics for r in resumed]
    assert all((Path(r.folder) / "delta.safetensors").is_file() for r in resumed)
    assert all(path.read_bytes() == content for path, content in done.items())
    assert not list((tmp_path / ".together").iterdir())


@pytest.mark.slow
def test_forced_runs_together_do_not_go_on_from_the_old_checkpoint(tmp_path, monkeypatch):
    def configs(*words: str) -> list:
        rates = ("optimizer.lr=0.01", "optimizer.lr=0.1")
        return [compose(tmp_path, "method=linear", "taps=memory", rate, *words) for rate in rates]

    with monkeypatch.context() as patch:
        during(patch, "validation_step", 5, send(signal.SIGINT))
        run_jointly(configs())
    assert [r.costs["time"]["sessions"] for r in run_jointly(configs("force=true"))] == [1, 1]
    (old,) = (tmp_path / ".together").iterdir()
    assert (old / "checkpoint.ckpt").is_file()


@needs_signals
def test_sigterm_before_training_closes_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr("peftbench.runs.single_run.make_plan", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    stopped = run(compose(tmp_path, *WORDS))
    assert stopped.status == read_record(Path(stopped.folder)).status == "interrupted"
    assert stopped.reason == "stopped by the user before anything was saved"


@pytest.mark.parametrize(
    "end",
    [SystemExit(0), *(pytest.param(end, marks=pytest.mark.slow) for end in (GeneratorExit(), BrokenPipeError()))],
)
def test_whatever_ends_a_run_closes_its_record(tmp_path, monkeypatch, end):
    def leave() -> None:
        raise end

    with monkeypatch.context() as patch:
        during(patch, "validation_step", 5, leave)
        with pytest.raises(type(end)):
            run(compose(tmp_path, *WORDS, "trainer.checkpoint_seconds=0"))
    (path,) = tmp_path.glob("*/result.json")
    record = json.loads(path.read_text())
    assert record["status"] == "interrupted"
    assert record["reason"].endswith("; the same command resumes it from its last checkpoint")


@needs_signals
def test_a_sweep_that_is_terminated_in_validation_ends_with_130_and_a_table(cli, tiny, tmp_path, monkeypatch):
    words = ["-m", *tiny, "method=linear", "data.eval_batch_size=40", "seed=0,1,2"]
    with monkeypatch.context() as patch:
        during(patch, "validation_step", 3, send(signal.SIGTERM))
        status, out, _ = cli(*words)
    assert status == 130
    assert "interrupted" in out
    assert "stopped; the same command goes on with what is left." in out
    statuses = sorted(json.loads(p.read_text())["status"] for p in tmp_path.glob("linear*/result.json"))
    assert statuses == ["complete", "interrupted"]


@needs_signals
def test_a_run_whose_output_nobody_reads_saves_and_ends_with_130(tiny, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        words = [w for w in tiny if w != "trainer.progress=false"]
        assert main([*words, "method=linear", "trainer.epochs=2", f"output_dir={tmp_path}"]) == 130
    (path,) = tmp_path.glob("*/result.json")
    assert json.loads(path.read_text())["reason"] == "nobody reads the output any more; the same command resumes it"
    assert (path.parent / "checkpoint.ckpt").is_file()


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]], ids=["one", "sweep"])
def test_head_ends_a_command_with_130_and_no_traceback(tiny, tmp_path, words):
    training = [w for w in tiny if not w.startswith("trainer.")]
    command = [python(), "-m", "peftbench.cli.main", *words, *training, "method=linear", "trainer.max_batches=2"]
    process = subprocess.Popen(
        [*command, "trainer.epochs=4", f"output_dir={tmp_path}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 130
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    (path,) = tmp_path.glob("*/result.json")
    record = json.loads(path.read_text())
    assert record["status"] == "interrupted"
    assert record["reason"] == "nobody reads the output any more; the same command resumes it"
    assert (path.parent / "checkpoint.ckpt").is_file()


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "backbone"), [("ddp", "resnet_nano"), ("fsdp", "vit_nano")])
def test_two_processes_that_are_terminated_stop_together_and_go_on(tmp_path, strategy, backbone):
    words = [*QUICK, "method=bitfit", f"trainer={strategy}", "trainer.devices=2", "trainer.accelerator=cpu"]
    words += [f"backbone={backbone}"]
    words += ["trainer.epochs=3", "trainer.max_batches=40", "data.eval_batch_size=1", f"output_dir={tmp_path}"]
    command = [python(), "-m", "peftbench.cli.main", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=240)[0]
    assert process.returncode == 130, told
    (path,) = tmp_path.glob("*/result.json")
    assert json.loads(path.read_text())["reason"] == "stopped by the user; the same command resumes it"
    resumed = subprocess.run(command, capture_output=True, text=True, timeout=480)
    assert resumed.returncode == 0, resumed.stderr
    record = json.loads(path.read_text())
    assert record["status"] == "complete"
    assert record["costs"]["time"]["sessions"] == 2
    assert all("val_accuracy" in row for row in record["history"])
    assert len(record["history"]) == 3
