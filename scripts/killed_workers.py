"""A sweep through a launcher whose workers are killed now and then: nothing is lost, and nothing is run twice.

    python scripts/killed_workers.py --launcher ray --jobs 1000 --kills 5

Instead of runs stand-ins are carried out that import no torch: each takes its run's lock, as a run does, notes in a
log that it begins, sleeps, leaves a record and notes that it ended. The sweep is the command `peftbench -m`, and so are
its launcher, its records and its way to go on. While it goes on, workers are killed in the midst of a job, and the same
command is given again until it ends well.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

LAUNCHERS = ("joblib", "ray", "submitit_local")
STAND_IN = '''
import importlib.abc, importlib.util, os, sys

RUN = """
import os, time
from pathlib import Path
from peftbench.common.file_lock import take
from peftbench.results import Record, read_record

def note(word, seed):
    with open(os.environ["STAND_IN_LOG"], "a") as log:
        log.write(f"{word} {seed} {os.getpid()}\\\\n")

def run_jointly(configs, group=None, retry=True, splits=None):
    (config,) = configs
    folder = Path(config.output_dir) / f"stand-in-s{config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = take(folder.with_name(f".{folder.name}.lock"), wait=True)
    try:
        if (folder / "result.json").exists():
            return [read_record(folder)]
        note("begin", config.seed)
        time.sleep(float(os.environ["STAND_IN_SECONDS"]))
        record = Record(folder.name, "complete", config.to_dict(), {}, {"val/accuracy": 0.5})
        record.write(folder)
        note("end", config.seed)
        return [record]
    finally:
        lock.release()
"""
DATA = """
def refuse_missing_weights(config): pass
def load_splits(config): return None
"""

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    sources = {"peftbench.runs.run": RUN, "peftbench.runs.data_sets": DATA}

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name in self.sources else None

    def exec_module(self, module):
        exec(self.sources[module.__name__], module.__dict__)

sys.meta_path.insert(0, Finder())
'''
"""A `sitecustomize` that every process of the sweep imports."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--launcher", choices=LAUNCHERS, default="joblib")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.05, help="that a stand-in takes")
    parser.add_argument("--workers", type=int, default=0, help="at a time; 0: as many as the launcher chooses")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="killed-workers-") as folder:
        return carry_out(asked, Path(folder))


def carry_out(asked: argparse.Namespace, folder: Path) -> int:
    """The exit status: 0 where each job was carried out once."""
    (folder / "sitecustomize.py").write_text(STAND_IN)
    log, output = folder / "log", folder / "outputs"
    log.touch()
    words = ["-m", "method=linear", "data=digits", f"seed=range({asked.jobs})", f"hydra/launcher={asked.launcher}"]
    words += ["trainer.accelerator=cpu", "trainer.progress=false", f"output_dir={output}"]
    if asked.workers and asked.launcher == "joblib":
        words.append(f"hydra.launcher.n_jobs={asked.workers}")
    paths = [str(folder), str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "RAY_AUTH_MODE": "disabled"}
    environment |= {"STAND_IN_LOG": str(log), "STAND_IN_SECONDS": str(asked.seconds)}
    chance, killed, rounds, began, status = random.Random(0), 0, 0, time.monotonic(), 1
    told = folder / "told"
    while status and rounds <= asked.kills + 1:
        rounds += 1
        with told.open("w") as file:
            command = [sys.executable, "-m", "peftbench", *words]
            sweep = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            ends = len(log.read_text().splitlines())
            patience = chance.randrange(2, max(3, 2 * asked.jobs // (asked.kills + 1)))
            struck = False
            while sweep.poll() is None:
                lines = log.read_text().splitlines()
                if killed < asked.kills and not struck and len(lines) - ends >= patience:
                    struck = kill_one(lines, chance)
                    killed += struck
                time.sleep(min(asked.seconds / 2, 0.5))
            status = sweep.returncode
    return judge(asked, output, log, told, status, f"{killed} workers killed, {rounds} commands", began)


def kill_one(lines: list[str], chance: random.Random) -> bool:
    """Kills a worker in the midst of a job; says whether there was one."""
    ended = {line.split()[1] for line in lines if line.startswith("end")}
    busy = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("begin")}
    alive = [pid for seed, pid in busy.items() if seed not in ended and Path(f"/proc/{pid}").exists()]
    if not alive:
        return False
    os.kill(chance.choice(alive), signal.SIGKILL)
    return True


def judge(asked: argparse.Namespace, output: Path, log: Path, told: Path, status: int, what: str, began: float) -> int:
    """Prints and returns whether all went well."""
    records = {p.parent.name for p in output.glob("stand-in-s*/result.json")}
    kept = [json.loads(p.read_text())["status"] for p in output.glob(".sweeps/*/jobs/*/result.json")]
    lost = [seed for seed in range(asked.jobs) if f"stand-in-s{seed}" not in records]
    ends: Counter[str] = Counter()
    twice = set()
    for line in log.read_text().splitlines():
        word, seed, _ = line.split()
        ends[seed] += word == "end"
        if ends[seed] > (word == "end"):
            twice.add(seed)
    well = status == 0 and not lost and not twice and set(kept) == {"complete"}
    print(
        f"{asked.launcher}: {asked.jobs} jobs, {what}, {time.monotonic() - began:.0f} s; {len(lost)} lost, "
        f"{len(twice)} run twice, status {status}: {'well' if well else 'NOT WELL'}"
    )
    if not well:
        print("\n".join(told.read_text().splitlines()[-30:]))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
