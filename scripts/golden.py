"""Golden values (`make golden BASE=<commit>`): what a change that only moves code must leave equal to the bit.

python scripts/golden.py values FILE [--rows PATTERN …] [--source DIR]         compute them and write them
python scripts/golden.py compare BASE HERE [--except PATTERN …]                compare two such files
python scripts/golden.py against COMMIT [--rows PATTERN …] [--except PATTERN …]  compute both trees and compare

A row is `run/<method>/<backbone>` (three batches of digits), `run/<method>/<backbone>/<detector>` (three batches of
digits_det) or `yaml/<group>/<name>` (the JSON that the id of a run with this one choice hashes). A pattern is a
shell's, over a row's name, and after --except also over that of a value in it: `run/lora/*`, `run/*/delta`,
`yaml/*/optimizer.lr`.

Older commits are computed by this same script, so it uses only what `import peftbench` offers and the files of a run.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BACKBONES = ("vit_nano", "resnet_nano", "hybrid_nano")
DETECTORS = ("fasterrcnn", "retinanet", "fcos")
DETECTING = ("cst", "losa", "lora", "full")
BATCHES = 3
# Three epochs of one batch: metrics.csv has a loss an epoch, in full.
STEPS = [f"trainer.epochs={BATCHES}", "trainer.max_batches=1", "trainer.threads=1", "trainer.accelerator=cpu"]
STEPS += ["trainer.progress=false", "logger=csv", "taps=auto", "pruning=none"]
DIGITS = ["data=digits", "data.batch_size=16", "data.eval_batch_size=16"]
SCENES = ["data=digits_det", "data.images=[12,2,2]", "data.canvas=64", "data.batch_size=4", "data.eval_batch_size=2"]
# What a YAML cannot be composed without.
NEEDS = {
    "backbone/timm": ["backbone.name=resnet18"],
    "data/domain_folder": ["data.root=domains", "data.train_domains=[photo]"],
    "data/coco_folder": ["data.root=boxes"],
    "data/hf": ["data.root=tables"],
    "data/folder": ["data.root=photos"],
    "data/seg_folder": ["data.root=masks"],
    "data/video_folder": ["data.root=clips"],
    "optimizer/timm": ["optimizer.name=lion"],
    "task/detection": ["data=digits_det"],
    "task/segmentation": ["data=digits_seg"],
    "task/multilabel": ["data=digits"],
    "task/regression": ["data=digits"],
}


def internal(name: str) -> Any:
    """`identity` or `run_id`, the only functions used here that `import peftbench` does not offer.

    They lie in `peftbench.config.identity`, and in commits where `config` is one file, in `peftbench.config`.
    """
    try:
        module = importlib.import_module("peftbench.config.identity")
    except ModuleNotFoundError:
        module = importlib.import_module("peftbench.config")
    return getattr(module, name)


def configs() -> Path:
    """The folder of the YAML files of the peftbench that is imported."""
    import peftbench

    return Path(peftbench.__file__).parent / "configs"


def yamls() -> dict[str, list[str]]:
    """The words that choose each shipped YAML, by its row's name; `train.yaml` is the default, chosen by none."""
    found: dict[str, list[str]] = {"yaml/train": []}
    for file in sorted(configs().rglob("*.yaml")):
        name = file.relative_to(configs()).with_suffix("").as_posix()
        if file.name.startswith("_") or "/" not in name:
            continue
        depth = 2 if name.startswith("hydra/") else 1  # hydra/launcher is a group, vtab/cifar a choice
        parts = name.split("/")
        found[f"yaml/{name}"] = [f"{'/'.join(parts[:depth])}={'/'.join(parts[depth:])}", *NEEDS.get(name, [])]
    return found


def runs() -> dict[str, list[str]]:
    """The words of each run, by its row's name."""
    methods = [name.split("/")[2] for name in yamls() if name.startswith("yaml/method/")]
    found = {f"run/{m}/{b}": [f"method={m}", f"backbone={b}", *DIGITS, *STEPS] for m in methods for b in BACKBONES}
    for method in DETECTING:
        words = [f"method={method}", "backbone=resnet_nano", *SCENES]
        found |= {f"run/{method}/resnet_nano/{d}": [*words, f"task.detector={d}", *STEPS] for d in DETECTORS}
    return found


def hashed(words: Sequence[str]) -> dict[str, Any]:
    """What the id of a run with these words hashes, as JSON has it."""
    import peftbench

    try:
        return json.loads(json.dumps(internal("identity")(peftbench.compose(*words))))
    except peftbench.UserError as problem:
        return {"refused": str(problem)}


def trained(words: Sequence[str]) -> dict[str, Any]:
    """What a run of three batches leaves: its id, what the id is made of, losses, a hash of the delta, and counts.

    A run that is refused leaves the sentence.
    """
    import peftbench

    with tempfile.TemporaryDirectory() as folder:
        try:
            record = peftbench.run(peftbench.compose(*words, f"output_dir={folder}"))
        except peftbench.UserError as problem:
            return {"refused": str(problem)}
        left = Path(folder) / record.id
        told = json.loads((left / "result.json").read_text(encoding="utf-8"))
        losses = []
        if (epochs := left / "metrics.csv").is_file():  # a head that is solved has none
            with epochs.open(encoding="utf-8") as file:
                losses = [float(row["train_loss"]).hex() for row in csv.DictReader(file)]
        assert told["status"] == "complete", told["reason"]
        assert len(losses) in (BATCHES, 0)
        return {
            "id": told["id"],
            "fingerprint": told["stamps"]["backbone"]["fingerprint"],
            "split": told["stamps"]["data"]["hash"],
            "losses": losses,
            "delta": content((left / "delta.safetensors").read_bytes()),
            "parameters": told["costs"]["parameters"]["method"],
        }


def content(file: bytes) -> str:
    """sha256 over names, types, shapes and bytes of all tensors of a safetensors file; its metadata are left out."""
    import safetensors

    digest = hashlib.sha256()
    for name, tensor in sorted(safetensors.deserialize(file), key=lambda item: item[0]):
        digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        digest.update(tensor["data"])
    return digest.hexdigest()


def stamp() -> dict[str, str]:
    """The processor, and the versions of what computes on it: where these are equal, numbers are to the bit."""
    import torch

    told = {}
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        for line in reversed(cpuinfo.read_text().splitlines()):
            key, _, value = line.partition(":")
            told[key.strip()] = value.strip()
    known = [f"{k} {told[k]}" for k in ("cpu family", "model") if k in told]
    name = ", ".join([told.get("model name") or platform.processor() or platform.machine(), *known])
    return {
        "processor": f"{name}, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy")},
    }


def values(patterns: Sequence[str] = ("*",)) -> dict[str, Any]:
    """The stamp, and the rows whose names fit one of the patterns."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found: dict[str, Any] = {}
    kept = os.environ.get("PEFTBENCH_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PEFTBENCH_CACHE"] = folder
        try:
            for compute, names in ((hashed, yamls()), (trained, runs())):
                for name, words in names.items():
                    if any(fnmatchcase(name, p) for p in patterns):
                        begun = time.monotonic()
                        found[name] = compute(words)
                        if compute is trained:
                            print(f"{name}: {time.monotonic() - begun:.1f} s", file=sys.stderr)
        finally:
            os.environ.pop("PEFTBENCH_CACHE")
            if kept is not None:
                os.environ["PEFTBENCH_CACHE"] = kept
    return {"stamp": stamp(), "rows": found}


def write(file: Path, found: Mapping[str, Any]) -> None:
    """Writes values as JSON, a row a line."""
    rows = [f"  {json.dumps(n)}: {json.dumps(v, sort_keys=True)}" for n, v in sorted(found["rows"].items())]
    head = json.dumps(found["stamp"], sort_keys=True)
    file.write_text('{"stamp": ' + head + ',\n"rows": {\n' + ",\n".join(rows) + "\n}}\n", encoding="utf-8")


def flat(value: Any, name: str, separator: str = "/") -> Iterator[tuple[str, Any]]:
    """Every value with its name: a row's, a slash, and the keys that lead to it, with dots."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}{separator}{key}", ".")
    else:
        yield name, value


def differences(base: Mapping[str, Any], here: Mapping[str, Any], allowed: Sequence[str] = ()) -> list[str]:
    """A line for each value that two sets of rows do not share, but for what a pattern in `allowed` names."""
    lines = []
    for row in sorted({**base, **here}):
        if any(fnmatchcase(row, p) for p in allowed):
            continue
        if row not in base or row not in here:
            lines.append(f"{row}: {'only in BASE' if row in base else 'only here'}")
            continue
        old, new = dict(flat(base[row], row)), dict(flat(here[row], row))
        for name in sorted({**old, **new}):
            if any(fnmatchcase(name, p) for p in allowed):
                continue
            if name not in new:
                lines.append(f"{name}: only in BASE ({json.dumps(old[name])})")
            elif name not in old:
                lines.append(f"{name}: only here ({json.dumps(new[name])})")
            elif json.dumps(old[name]) != json.dumps(new[name]):
                lines.append(f"{name}: BASE {json.dumps(old[name])}, here {json.dumps(new[name])}")
    return lines


def tell(base: Mapping[str, Any], here: Mapping[str, Any], allowed: Sequence[str]) -> int:
    """Prints every difference; the exit status is 1 where there is one."""
    if not base["rows"] and not here["rows"]:
        sys.exit("golden: no row fits these patterns; they are such as run/lora/* or yaml/data/*.")
    lines = differences(base["rows"], here["rows"], allowed)
    if base["stamp"] != here["stamp"]:
        lines.insert(0, f"stamp: BASE {json.dumps(base['stamp'])}, here {json.dumps(here['stamp'])}")
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"golden: {len(lines)} differences in {len({**base['rows'], **here['rows']})} rows")
    return bool(lines)


def against(commit: str, patterns: Sequence[str], allowed: Sequence[str]) -> int:
    """Computes the values of a commit and of this tree, on this machine with one thread, and compares them."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], stdout=subprocess.PIPE)
    if found.returncode:
        sys.exit(f"golden: BASE={commit} is no commit of this repository; give one, such as BASE=HEAD~1.")
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "base"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(other), commit], check=True)
        try:
            computed = []
            for name, tree in (("BASE", other), ("here", ROOT)):
                print(f"golden: {name}", file=sys.stderr)
                file = Path(folder) / f"{name}.json"
                words = [sys.executable, __file__, "values", str(file), "--source", str(tree / "src")]
                words += [w for p in patterns for w in ("--rows", p)]
                subprocess.run(words, check=True, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"})
                computed.append(json.loads(file.read_text(encoding="utf-8")))
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(other)], check=True)
    return tell(computed[0], computed[1], allowed)


def source(folder: Path) -> None:
    """Imports peftbench from this folder, and stops where another one is found: the proof would prove nothing."""
    sys.path.insert(0, str(folder.resolve()))
    import peftbench

    if not Path(peftbench.__file__).resolve().is_relative_to(folder.resolve()):
        sys.exit(f"golden: peftbench was imported from {peftbench.__file__}, not from {folder}.")


def main() -> int:
    """The exit status of one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    compute, pair, commit = (verbs.add_parser(v) for v in ("values", "compare", "against"))
    compute.add_argument("file", type=Path)
    compute.add_argument("--source", type=Path, help="the folder to import peftbench from")
    pair.add_argument("base", type=Path)
    pair.add_argument("here", type=Path)
    commit.add_argument("commit")
    for verb in (compute, commit):
        verb.add_argument("--rows", action="append", metavar="PATTERN", help="only these rows")
    for verb in (pair, commit):
        verb.add_argument("--except", action="append", dest="allowed", metavar="PATTERN", help="may differ")
    given = parser.parse_args()
    if given.verb == "compare":
        both = [json.loads(f.read_text(encoding="utf-8")) for f in (given.base, given.here)]
        return tell(both[0], both[1], given.allowed or ())
    if given.verb == "against":
        return against(given.commit, given.rows or ("*",), given.allowed or ())
    if given.source:
        source(given.source)
    write(given.file, values(given.rows or ("*",)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
