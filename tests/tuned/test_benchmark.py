"""`peftbench benchmark`: a run's files measured beside torch, and what is refused."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import peftbench
from peftbench.cli.main import main
from peftbench.results import read_record
from peftbench.results.shipped import Benchmark, Shipped, read_benchmark, write_benchmark
from peftbench.tuned.benchmark.measuring import benchmark
from support.finished_runs import finish, pictures

ROW = Shipped(
    format="onnx",
    threads=1,
    size=4_000_000,
    score=0.9,
    agreement=0.99,
    logit_difference=1e-6,
    latency={"1": 1.5, "32": 40.0},
    p95={"1": 2.0, "32": 44.0},
    throughput=800.0,
    memory=100_000_000,
    load=0.1,
    library="onnxruntime 1",
    measured="2026-01-01",
)
HERE = {"system": "Linux", "processor": "a CPU"}


def measured(run: str, machine: dict[str, str] = HERE) -> Benchmark:
    return Benchmark(run, "accuracy", machine, {"name": "new", "number": 24, "hash": "0"}, [ROW])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the folder of a run that was tested as files look at images, the folder of its images)."""
    data = pictures(tmp_path_factory.mktemp("images"))
    return Path(finish(tmp_path_factory.mktemp("out"), data, "linear", "vit_nano").folder), data


@pytest.fixture
def folder(run) -> Path:
    """A copy of a finished run's folder."""
    return run[0]


def told(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["benchmark", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.slow
def test_every_format_is_measured_beside_torch_in_a_process_of_its_own(finished, tmp_path, capsys):
    folder = Path(shutil.copytree(finished[0], tmp_path / finished[0].name))
    words = [f"run={folder}", "formats=[torch,torch_export]", "seconds=0.02"]
    status, out, err = told(capsys, *words)
    assert status == 0, err
    record, found = read_record(folder), read_benchmark(folder)
    assert [(row.format, row.threads) for row in found.rows] == [("torch", 1), ("torch_export", 1)]
    for row in found.rows:
        assert row.score == pytest.approx(record.metrics["test/accuracy"], abs=1e-6)
        assert row.agreement == 1
        assert row.logit_difference < 1e-4
        assert 0 < row.latency["1"] <= row.p95["1"]
        assert row.latency["1"] < row.latency["32"]
        assert row.throughput == pytest.approx(32_000 / row.latency["32"])
        assert row.memory > 50e6
        assert row.load > 0
    assert found.rows[1].size == (folder / "model.pt2").stat().st_size
    assert "torch_export" in out
    assert str(folder / "benchmark.csv") in out
    with (folder / "benchmark.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["score"]) for row in table] == [row.score for row in found.rows]
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
    # Other images than those of the figures that are there are refused, and what is there stays.
    before = (folder / "benchmark.json").read_bytes()
    status, _, err = told(capsys, *words, f"images={finished[1] / 'train'}")
    assert status == 2
    assert "benchmark.json: holds figures of other images" in err
    assert (folder / "benchmark.json").read_bytes() == before


@pytest.mark.slow
def test_what_is_stopped_leaves_nothing(run):
    folder = run[0]

    def stop(what: str, done: int, of: int) -> None:
        if what == "measuring" and done:
            raise KeyboardInterrupt

    before = {p.name for p in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        benchmark(folder, ["torch"], run[1], seconds=0.01, watch=stop)
    assert {p.name for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["formats=[onx]"], "formats=onx: expected some of torch, onnx"),
        (["formats=[onx]"], "(did you mean 'onnx'?)"),
        (["threads=0"], "threads=0: expected whole numbers from 1"),
        (["seconds=x"], "seconds=x"),
    ],
)
def test_words_that_say_nothing_are_refused(trained, capsys, words, part):
    status, _, err = told(capsys, f"run={trained[0]}", *words)
    assert status == 2
    assert part in err
    assert len(err.strip().splitlines()) == 1


def test_a_missing_library_is_told_before_anything_is_measured(trained, capsys, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "onnxruntime" else there(name, *more)
    )
    status, _, err = told(capsys, f"run={trained[0]}", "formats=torch,onnx")
    assert status == 2
    assert "formats=onnx: needs onnxruntime; pip install 'peftbench[onnx]'." in err


def test_an_unfinished_run_is_refused(folder, capsys):
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**record, "status": "running"}))
    status, _, err = told(capsys, f"run={folder}", "formats=[torch]")
    assert status == 2
    assert str(folder) in err
    assert not (folder / "benchmark.json").exists()


def test_figures_of_two_machines_are_not_mixed(folder, capsys):
    write_benchmark(folder, measured(read_record(folder).id))
    before = (folder / "benchmark.json").read_bytes()
    with pytest.raises(peftbench.Refusal, match=r"figures of another machine \(a CPU, Linux; this is .*force=true"):
        benchmark(folder, ["torch"])
    assert (folder / "benchmark.json").read_bytes() == before


def test_a_damaged_record_of_figures_is_told(folder, capsys):
    (folder / "benchmark.json").write_text('{"schema": 1, "rows": 3}')
    with pytest.raises(peftbench.UserError, match=r"benchmark\.json: is no record of peftbench benchmark"):
        benchmark(folder, ["torch"])
    assert main(["report", str(folder)]) == 0
    assert "is no record of peftbench benchmark" in " ".join(capsys.readouterr().out.split())


def test_a_report_shows_the_figures_of_each_machine_apart(trained, tmp_path, capsys):
    for name, machine in (("a", HERE), ("b", {"system": "Linux", "processor": "another CPU"})):
        copy = shutil.copytree(trained[0], tmp_path / name)
        file = copy / "result.json"
        record = json.loads(file.read_text())
        record["id"] = f"{record['id']}-{name}"
        file.write_text(json.dumps(record))
        write_benchmark(copy, replace(measured(record["id"], machine)))
    assert main(["report", str(tmp_path), "format=markdown"]) == 0
    out = capsys.readouterr().out
    assert out.count("As shipped") == 2
    assert "Measured on a CPU, Linux" in out
    assert "Measured on another CPU, Linux" in out
    assert main(["report", str(tmp_path), "format=html"]) == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("As shipped") == 2
