"""Sweeps through every launcher."""

from __future__ import annotations

import os
import re

import pytest

from support.sweeps import plugin, records, start


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_launcher_runs_every_job_and_the_table_comes_at_the_end(tiny, tmp_path, launcher):
    plugin(launcher)
    seeds = [0] if launcher == "submitit_local" else [0, 1]  # which starts all jobs at once
    words = ["-m", *tiny, "method=petah,linear", f"seed={','.join(map(str, [*seeds, seeds[-1]]))}", "trainer.threads=1"]
    words += ["pruning=unstructured", "pruning.ratio=0.1", "pruning.merge=dense"]  # which the probe cannot
    words += [f"hydra/launcher={launcher}", f"output_dir={tmp_path}"]
    if launcher == "ray":  # which takes our word that there is a GPU, and lets two jobs share it
        words += ["+hydra.launcher.ray.init.num_gpus=1", "hydra.launcher.ray.remote.num_gpus=0.5"]
    done = start(*words, RAY_AUTH_MODE="disabled")
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(tmp_path)
    complete = [r["config"] for r in found.values() if r["status"] == "complete"]
    assert sorted((c["method"]["name"], c["seed"]) for c in complete) == [("petah", s) for s in seeds]
    assert "refused method=linear" in done.stdout
    assert len(re.findall(r"^ petah ", done.stdout, re.MULTILINE)) == len(seeds)
    assert "Traceback" not in done.stderr
    assert launcher != "ray" or set(re.findall(r"on GPU (\S+)", done.stdout + done.stderr)) == {"0"}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/delta.safetensors")}
    again = start(*words, RAY_AUTH_MODE="disabled")
    assert again.returncode == 0, again.stdout + again.stderr
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/delta.safetensors")} == before


@pytest.mark.slow
def test_joblib_gives_each_process_a_gpu_of_its_own(tiny, tmp_path):
    plugin("joblib")
    words = ["-m", *tiny, "method=linear", "seed=range(4)", "hydra/launcher=joblib", f"output_dir={tmp_path}"]
    done = start(*words, CUDA_VISIBLE_DEVICES="3,5")
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"on GPU (\S+)", done.stdout)) == {"3", "5"}, done.stdout


@pytest.fixture
def resolvers(monkeypatch):
    """What configs may ask for, as in a process that has no GPU yet."""
    from peftbench.config import resolvers

    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "PEFTBENCH_GPUS"):
        monkeypatch.delenv(name, raising=False)
    resolvers.register()
    resolvers.gpus.cache_clear()
    yield resolvers
    resolvers.gpus.cache_clear()


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"])
def test_places_are_shared_out_over_gpus(tmp_path, monkeypatch, resolvers, variable):
    from omegaconf import OmegaConf

    def taken(trainer: dict, given: str) -> list[str]:
        found = []
        for _ in range(3):  # each stands for a process that holds its place
            monkeypatch.setattr(resolvers, "_PLACE", [])
            monkeypatch.setenv(variable, given)
            resolvers.gpus.cache_clear()
            config = OmegaConf.create({"trainer": {"accelerator": "auto", "devices": 1, **trainer}})
            resolvers.assign(tmp_path / given / str(trainer), "x.JoblibLauncher", config)
            kept.append(resolvers._PLACE)
            found.append(os.environ[variable])
        return found

    kept: list = []
    assert taken({}, "0,1") == ["0", "1", "0"]
    assert taken({"devices": 2}, "4,5,6,7") == ["4,5", "6,7", "4,5"]
    assert taken({"accelerator": "cpu"}, "0,1") == ["0,1"] * 3


@pytest.mark.parametrize("said", ["a greeting\n4", "", "none"])
def test_torch_is_asked_for_gpus_in_a_process_of_its_own(tmp_path, monkeypatch, resolvers, said):
    """On AMD's there is no nvidia-smi: all jobs went to the first GPU. A stand-in for torch counts them here."""
    (tmp_path / "torch.py").write_text(f"class cuda:\n    device_count = staticmethod(lambda: {said!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert resolvers.gpus() == (("0", "1", "2", "3") if said.endswith("4") else ())
    (tmp_path / "torch.py").unlink()
    resolvers.gpus.cache_clear()  # as in a worker, which asks nobody again
    assert len(resolvers.gpus()) == (4 if said.endswith("4") else 0)


@pytest.mark.parametrize(
    ("words", "jobs", "each"),
    [([], 4, 1), (["trainer=ddp"], 2, 2), (["trainer=ddp", "trainer.devices=3"], 1, 3), (["trainer=cpu"], 2, 0)],
)
def test_jobs_at_once_and_their_gpus_follow_from_the_devices_of_a_run(monkeypatch, resolvers, words, jobs, each):
    """With four GPUs and eight cores."""
    from hydra import compose, initialize_config_dir

    from peftbench.config import CONFIGS

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(resolvers, "usable_cores", lambda: 8)
    asked = {}
    for launcher in ("joblib", "ray", "submitit_local"):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(
                "train", [*words, "method=linear", f"hydra/launcher={launcher}"], return_hydra_config=True
            )
        asked[launcher] = composed.hydra.launcher
    assert asked["joblib"].n_jobs == jobs
    assert asked["ray"].ray.remote.num_gpus == asked["submitit_local"].gpus_per_node == each


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
