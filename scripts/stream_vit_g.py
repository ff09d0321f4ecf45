"""Fills the taps of a backbone that is streamed from its file, and compares memory, values and time with the ordinary.

python scripts/stream_vit_g.py [--backbone vit_g] [--images 32] [--folder DIR]

The weights are random and written to a file first, so that nothing is downloaded: for ViT-g/14 4 GB, and 2 GB of
taps. The streamed and the ordinary forward pass run in a fresh process each.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import peftbench
from peftbench import backbones

LIMIT = 3e9  # bytes resident, for ViT-g/14
ROUNDING = 1e-5  # of the largest value


def write(path: Path, backbone: str) -> None:
    """Random weights in a safetensors file, tensor after tensor, each seeded by its name."""
    state = backbones.build_on_meta(peftbench.compose(f"backbone={backbone}").backbone).net.state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32, name
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    with path.open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for name, tensor in state.items():
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
            values = 0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
            if tensor.ndim == 1 and name.endswith("weight"):
                values += 1  # a norm's
            file.write(values.numpy().data)


def fill(path: Path, backbone: str, images: int, stream: bool, emit: Callable[[int, Tensor], None]) -> dict[str, Any]:
    """Hands every tap of the images to `emit`; bytes, and seconds of the clock and of the processor without `emit`."""
    spec = dataclasses.replace(
        peftbench.compose(f"backbone={backbone}").backbone, weights=str(path), pretrained=True, stream=stream
    )
    begun = now()
    built = backbones.build_with_weights(spec)
    ready = now()
    apart = np.zeros(2)

    def timed(index: int, tap: Tensor) -> None:
        nonlocal apart
        start = now()
        emit(index, tap)
        apart += now() - start

    size = built.facts.input_size
    with torch.no_grad():
        built.taps(torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0)), emit=timed)
    build, filled = (ready - begun).tolist(), (now() - ready - apart).tolist()
    return {"peak": peak(), "build": build, "fill": filled, "parameters": built.facts.parameters}


def now() -> np.ndarray:
    """Seconds of the clock, and of this process on a processor."""
    return np.array([time.perf_counter(), time.process_time()])


def peak() -> int:
    """The peak resident set of this process, mapped pages included, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def streamed(folder: Path, backbone: str, images: int) -> dict[str, Any]:
    return fill(
        folder / "weights.safetensors",
        backbone,
        images,
        True,
        lambda i, tap: np.save(folder / f"{i}.npy", tap.numpy()),
    )


def ordinary(folder: Path, backbone: str, images: int) -> dict[str, Any]:
    """The same without streaming, compared with the taps that `streamed` left in the folder."""
    found: dict[str, Any] = {"taps": 0, "equal": 0, "error": 0.0}

    def compare(index: int, tap: Tensor) -> None:
        theirs = torch.from_numpy(np.load(folder / f"{index}.npy"))
        found["taps"] += 1
        found["equal"] += torch.equal(theirs, tap)
        found["error"] = max(found["error"], ((theirs - tap).abs().max() / tap.abs().max()).item())

    return fill(folder / "weights.safetensors", backbone, images, False, compare) | found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_g", help="a name in configs/backbone")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where 6 GB fit; default: the system's temporary folder")
    parser.add_argument("--only", choices=["streamed", "ordinary"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        measure = streamed if given.only == "streamed" else ordinary
        print(json.dumps(measure(given.folder, given.backbone, given.images)))
        return 0

    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        path = Path(place) / "weights.safetensors"
        write(path, given.backbone)
        size = path.stat().st_size
        more = ["--backbone", given.backbone, "--images", str(given.images), "--folder", place]
        results = {}
        for way in ("streamed", "ordinary"):
            command = [sys.executable, __file__, "--only", way, *more]
            results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ours, theirs = results["streamed"], results["ordinary"]
    print(f"{given.backbone}, {ours['parameters']:,} parameters, a file of {size / 1e9:.2f} GB, {given.images} images")
    print("|  | peak resident set | building | filling all taps | of it processor time |")
    print("| --- | --- | --- | --- | --- |")
    for way, it in results.items():
        times = f"{it['build'][0]:.1f} s | {it['fill'][0]:.1f} s | {it['fill'][1]:.1f} s"
        print(f"| {way} | {it['peak'] / 1e9:.2f} GB | {times} |")
    clock, processor = (a / b for a, b in zip(ours["fill"], theirs["fill"], strict=True))
    print(f"streamed / ordinary: {clock:.3f} of the time, {processor:.3f} of the processor's")
    print(f"{theirs['equal']} of {theirs['taps']} taps are equal to the bit; largest error {theirs['error']:.1e}")
    return int(theirs["error"] > ROUNDING or (given.backbone == "vit_g" and ours["peak"] > LIMIT))


if __name__ == "__main__":
    sys.exit(main())
