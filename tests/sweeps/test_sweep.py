"""Sweeps: a run in a sweep is the run alone; what failed is kept, named and tried again on demand."""

from __future__ import annotations

import re

import pytest
import torch

from support.sweeps import records, start

# -- the same runs


@pytest.mark.slow
def test_every_run_of_a_sweep_is_what_it_is_alone(cli, tiny, tmp_path):
    """No state goes from run to run in one process: the same bits as in a fresh one."""
    from peftbench.deltas import load_delta

    words = [*tiny, "trainer.max_batches=3", "trainer.epochs=2", "data.stage=fit"]
    assert cli("-m", *words, "method=full,bitfit,ftp", "seed=0,1", f"output_dir={tmp_path / 'sweep'}")[0] == 0
    swept = records(tmp_path / "sweep")
    assert len(swept) == 6
    for name in sorted(swept)[::2]:
        own = swept[name]["config"]
        chosen = [f"method={own['method']['name']}", f"seed={own['seed']}", f"output_dir={tmp_path / 'alone'}"]
        done = start(*words, *chosen)
        assert done.returncode == 0, done.stderr
        alone = records(tmp_path / "alone")[name]
        assert alone["metrics"] == swept[name]["metrics"]
        losses = [[row["train_loss"] for row in r["history"]] for r in (alone, swept[name])]
        assert losses[0] == losses[1]
        a, b = (load_delta(tmp_path / place / name / "delta.safetensors")[0] for place in ("alone", "sweep"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("more", [[], ["sweep.together=4"]], ids=["apart", "together"])
def test_jobs_that_come_to_one_run_are_one_run(cli, tiny, tmp_path, monkeypatch, more):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    status, out, err = cli(
        "-m", *tiny, "method=linear", "seed=0", "data.batch_size=16,16", "optimizer.lr=1e-3,0.001", *more
    )
    assert status == 0, err
    assert len(records(tmp_path)) == 1
    assert "another process" not in out + err
    assert len(re.findall(r"^ *linear ", out, re.MULTILINE)) <= 1


# -- what failed


def test_what_failed_is_kept_and_tried_again_on_demand(cli, tiny, tmp_path):
    words = ["-m", *tiny, "method=linear", "optimizer=sgd", "optimizer.schedule=constant", "optimizer.warmup=0.0"]
    words += ["optimizer.lr=0.01,1e30", "trainer.max_batches=4"]
    status, out, _ = cli(*words)
    assert status == 1
    assert "sweep.retry=true tries it again" in out
    assert re.search(r"failed method=linear .* seed=0 optimizer.lr=1e\+30: ", out), "it says which one"
    times = {r["status"]: (tmp_path / n / "result.json").stat().st_mtime_ns for n, r in records(tmp_path).items()}
    assert set(times) == {"complete", "failed"}
    status, out, _ = cli(*words)
    assert status == 1
    assert re.search(r"failed method=linear .*nan", out), "the table comes also when jobs failed"
    again = {r["status"]: (tmp_path / n / "result.json").stat().st_mtime_ns for n, r in records(tmp_path).items()}
    assert again == times
    assert cli(*words, "sweep.retry=true")[0] == 1
    again = {r["status"]: (tmp_path / n / "result.json").stat().st_mtime_ns for n, r in records(tmp_path).items()}
    assert again["complete"] == times["complete"]
    assert again["failed"] > times["failed"]


@pytest.mark.parametrize("words", [["optimizer.lr=-1"], ["method.tap_last=99"]])  # before and after there is a config
def test_what_is_refused_is_named_by_what_tells_it_apart(cli, tiny, words):
    status, out, _ = cli("-m", *tiny, "method=losa", "method.rank=2,3,0", "seed=0,1", *words)  # 0 makes another mistake
    assert status == 2
    for rank in (2, 3):
        for seed in (0, 1):
            which = rf"refused method=losa .* seed={seed} (method\.)?rank={rank}: "
            assert re.search(which + words[0].partition("=")[0], out)


def test_options_may_stand_among_overrides(cli, tiny):
    status, out, _ = cli(*tiny, "method=losa", "-m", "optimizer.lr=-1", "seed=0,1", "--multirun")
    assert status == 2
    assert "2 of 2 jobs: optimizer.lr=-1" in out
    status, out, _ = cli("method=losa", "--cfg", "job", "seed=1", "--package", "taps", *tiny)
    assert (status, out.splitlines()[0]) == (0, "# @package taps")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "--cfg", "job"], "-m --cfg: each asks for something else; give one of them."),
        (["--multirn"], "--multirn: there is no such option (did you mean '--multirun'?); see peftbench --help."),
        (["-x"], "-x: there is no such option; see peftbench --help."),
    ],
)
def test_mistaken_options_are_one_sentence(cli, tiny, words, told):
    status, out, err = cli(*tiny, "method=losa", *words, "seed=1")
    assert (status, out, err) == (2, "", f"peftbench: {told}\n")


# -- W&B


def whole_records(raw: bytes, block: int = 2**15, header: int = 7) -> bytes:
    """W&B's file without the headers at which a record goes on in the next block."""
    return raw[:block] + b"".join(raw[i + header : i + block] for i in range(block, len(raw), block))


def test_the_runs_of_a_sweep_are_one_group(cli, tiny, tmp_path):
    import wandb

    assert cli("-m", *tiny, "method=linear", "seed=0,1", "logger=wandb")[0] == 0
    assert wandb.run is None
    (sweep,) = (p.name for p in (tmp_path / ".sweeps").iterdir())
    files = list(tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert all(sweep.encode() in whole_records(f.read_bytes()) for f in files)
