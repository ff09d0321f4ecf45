"""Sweeps: resumed, retried on demand, through every launcher, with Optuna; a run in a sweep is the run alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import standins
import torch


def records(folder: Path) -> dict[str, dict]:
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("[!.]*/result.json"))]
    return {r["id"]: r for r in found}


def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peftbench.cli.main", *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=900)


def needs(module: str) -> None:
    """Skips without an optional package. Where PEFTBENCH_LAUNCHERS=required (as in .ci/run) that is a failure."""
    if os.environ.get("PEFTBENCH_LAUNCHERS") == "required":
        __import__(module)
    pytest.importorskip(module, reason=f"the optional package with {module} is not installed")


PLUGIN = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


def plugin(launcher: str) -> None:
    needs(f"hydra_plugins.hydra_{PLUGIN[launcher]}_launcher")


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
def test_what_failed_is_named_by_what_tells_it_apart(cli, tiny, words):
    status, out, _ = cli("-m", *tiny, "method=losa", "method.rank=2,3", "seed=0,1", *words)
    assert status == 1
    for rank in (2, 3):
        for seed in (0, 1):
            which = rf"failed method=losa .* seed={seed} (method\.)?rank={rank}: "
            assert re.search(which + words[0].partition("=")[0], out)


def test_options_may_stand_among_overrides(cli, tiny):
    status, out, _ = cli(*tiny, "method=losa", "-m", "optimizer.lr=-1", "seed=0,1", "--multirun")
    assert status == 1
    assert "job 1: " in out
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


# -- launchers


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_launcher_runs_every_job_and_the_table_comes_at_the_end(tiny, tmp_path, launcher):
    plugin(launcher)
    seeds = [0] if launcher == "submitit_local" else [0, 1]  # which starts all jobs at once
    words = ["-m", *tiny, "method=petah,linear", f"seed={','.join(map(str, [*seeds, seeds[-1]]))}", "trainer.threads=1"]
    words += ["pruning=unstructured", "pruning.ratio=0.1", "pruning.merge=dense"]  # which the probe cannot
    words += [f"hydra/launcher={launcher}", f"output_dir={tmp_path}"]
    done = start(*words, RAY_AUTH_MODE="disabled")
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    complete = [r["config"] for r in found.values() if r["status"] == "complete"]
    assert sorted((c["method"]["name"], c["seed"]) for c in complete) == [("petah", s) for s in seeds]
    assert "refused method=linear" in done.stdout
    assert len(re.findall(r"^ petah ", done.stdout, re.MULTILINE)) == len(seeds)
    assert "Traceback" not in done.stderr
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/delta.safetensors")}
    assert start(*words, RAY_AUTH_MODE="disabled").returncode == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/delta.safetensors")} == before


@pytest.mark.slow
def test_joblib_gives_each_process_a_gpu_of_its_own(tiny, tmp_path):
    plugin("joblib")
    words = ["-m", *tiny, "method=linear", "seed=range(4)", "hydra/launcher=joblib", f"output_dir={tmp_path}"]
    done = start(*words, CUDA_VISIBLE_DEVICES="3,5")
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"on GPU (\S+)", done.stdout)) == {"3", "5"}, done.stdout


def test_places_are_shared_out_over_gpus(tmp_path, monkeypatch):
    from omegaconf import OmegaConf

    from peftbench.config import resolvers

    def taken(trainer: dict, given: str) -> list[str]:
        found = []
        for _ in range(3):  # each stands for a process that holds its place
            monkeypatch.setattr(resolvers, "_SLOT", [])
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
            resolvers.gpus.cache_clear()
            config = OmegaConf.create({"trainer": {"accelerator": "auto", "devices": 1, **trainer}})
            resolvers.assign(tmp_path / given / str(trainer), "x.JoblibLauncher", config)
            kept.append(resolvers._SLOT)
            found.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return found

    kept: list = []
    assert taken({}, "0,1") == ["0", "1", "0"]
    assert taken({"devices": 2}, "4,5,6,7") == ["4,5", "6,7", "4,5"]
    assert taken({"accelerator": "cpu"}, "0,1") == ["0,1"] * 3
    resolvers.gpus.cache_clear()


def test_a_slurm_sweep_asks_for_what_its_runs_need(tiny, tmp_path):
    """The configuration goes all the way into a batch script, which a stand-in for sbatch keeps."""
    plugin("submitit_slurm")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("srun", "sbatch", "squeue", "sacct"):
        (tools / name).write_text(
            f'#!/bin/sh\ncp "$1" {tmp_path}/script 2>/dev/null\necho no cluster here >&2\nexit 1\n'
        )
        (tools / name).chmod(0o755)
    words = [
        "-m",
        *tiny,
        "method=linear",
        "seed=0,1",
        "hydra/launcher=submitit_slurm",
        "trainer=ddp",
        "trainer.devices=2",
    ]
    words += ["hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90", f"output_dir={tmp_path / 'out'}"]
    done = start(*words, PATH=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "the launcher stopped" in done.stderr
    script = (tmp_path / "script").read_text()
    for line in (
        "--array=0-1",
        "--partition=gpu",
        "--time=90",
        "--ntasks-per-node=2",
        "--gpus-per-node=2",
        "--nodes=1",
    ):
        assert line in script, script


def test_a_launcher_that_is_not_installed_is_told(cli, tiny, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    status, _, err = cli("-m", *tiny, "method=linear", "seed=0,1", "hydra/launcher=ray")
    assert (status, err) == (2, "peftbench: hydra/launcher=ray: is not installed; pip install 'peftbench[ray]'.\n")


@pytest.mark.slow
def test_a_sweep_over_runs_in_several_processes(tiny, tmp_path):
    words = ["-m", *tiny, "method=bitfit", "seed=0,1", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    done = start(*words, f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert [r["status"] for r in records(tmp_path).values()] == ["complete", "complete"]
    assert len(list((tmp_path / ".sweeps").glob("*/jobs/*"))) == 2


# -- Optuna

SEARCH = ["hydra/sweeper=optuna", "optimizer.lr=tag(log, interval(1e-4, 1e-1))", "data.batch_size=choice(8, 16)"]


def test_optuna_searches_on_validation_images_and_goes_on(cli, tiny, tmp_path):
    needs("optuna")
    words = ["-m", *tiny, "method=linear", *SEARCH]
    status, out, err = cli(*words, "hydra.sweeper.trials=2")
    assert status == 0, err
    assert "best of 2 trials" in out
    found = records(tmp_path)
    assert {r["stamps"]["data"]["stage"] for r in found.values()} == {"tune"}
    assert all(1e-4 <= r["config"]["optimizer"]["lr"] <= 1e-1 for r in found.values())
    best = max(r["metrics"]["val/accuracy"] for r in found.values())
    assert f"by validation accuracy: {100 * best:.1f} %" in out
    status, out, err = cli(*words, "hydra.sweeper.trials=3")
    assert status == 0, err
    assert "goes on after 2 of 3 trials" in out
    assert out.count("job ") == 1
    assert len(records(tmp_path)) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hydra/sweeper=optuna"], "nothing to search"),
        ([*SEARCH, "hydra.sweeper.sampler=tp"], "expected tpe or random (did you mean 'tpe'?)"),
        ([*SEARCH, "hydra.sweeper.trials=0"], "hydra.sweeper.trials=0: expected a whole number"),
        ([*SEARCH, "sweep.together=4"], "leave one of them out"),
    ],
)
def test_mistakes_of_a_search_are_one_sentence(cli, tiny, tmp_path, words, told):
    needs("optuna")
    status, _, err = cli("-m", *tiny, "method=linear", *words)
    assert status == 2
    assert told in err
    assert err.count("\n") == 1
    assert not records(tmp_path)


# -- W&B


def test_the_runs_of_a_sweep_are_one_group(cli, tiny, tmp_path):
    import wandb

    assert cli("-m", *tiny, "method=linear", "seed=0,1", "logger=wandb")[0] == 0
    assert wandb.run is None
    (sweep,) = (p.name for p in (tmp_path / ".sweeps").iterdir())
    files = list(tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert all(sweep.encode() in f.read_bytes() for f in files)


# -- all of it


@pytest.fixture(scope="module")
def vtab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 19 tasks, prepared from stand-ins of their sources in the true formats; in one split, for a mean."""
    needs("h5py")
    archives = standins.make_all(tmp_path_factory.mktemp("sources"))
    folder = tmp_path_factory.mktemp("prepared")
    made = start(
        "data", "prepare", "vtab", f"dir={folder}", f"archives={archives}", "split=peftbench-v1", *standins.WORDS
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_the_whole_protocol_killed_half_way_and_resumed_then_reported(vtab, tmp_path, launcher):
    plugin(launcher)
    out = tmp_path / "out"
    words = ["-m", "protocol=vtab1k", "protocol.trials=1", "protocol.seeds=2", "sweep.grid={optimizer.lr:[1e-2]}"]
    words += [
        "data=glob(vtab/*)",
        f"data.root={vtab}",
        "backbone=resnet_nano",
        "backbone.pretrained=false",
        "data.size=32",
    ]
    words += [
        "trainer.epochs=1",
        "trainer.progress=false",
        "logger=none",
        f"hydra/launcher={launcher}",
        f"output_dir={out}",
    ]
    words += ["method=linear,bitfit,full", "data.batch_size=4"]
    command = [sys.executable, "-m", "peftbench.cli.main", *words]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    victim = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=env
    )
    deadline = time.monotonic() + 600
    while len(list(out.glob("*/delta.safetensors"))) < 60 and time.monotonic() < deadline and victim.poll() is None:
        time.sleep(0.2)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    complete = [name for name, record in records(out).items() if record["status"] == "complete"]
    before = {p: p.stat().st_mtime_ns for name in complete for p in [out / name / "delta.safetensors"]}
    assert 50 <= len(before) < 3 * 19 * 3
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=1800)
    assert done.returncode == 0, done.stderr
    found = records(out)
    assert len(found) == 3 * 19 * 3
    assert {r["status"] for r in found.values()} == {"complete"}
    assert {p: p.stat().st_mtime_ns for p in before} == before, "what was complete was not run again"
    assert "mean of groups" in done.stdout
    told = start("report", str(out), "--format=csv")
    assert told.returncode == 0, told.stderr
    means = [line for line in told.stdout.splitlines() if ",mean of groups," in line]
    assert len(means) == 3
    assert all(re.search(r",mean of groups,0\.\d+,0\.\d+,2,", line) for line in means), means
    chosen = start("choose", str(out), "max_params=0.1M")
    assert chosen.returncode == 0, chosen.stdout
    assert "all 19 tasks: " in chosen.stdout
