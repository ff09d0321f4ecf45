"""Streams a backbone from its file: its taps go straight to files, and side methods train from these.

python scripts/stream_backbone.py --backbone vit_7b_dinov3 --dtype bfloat16       27 GB of floats in less than 3 GB
python scripts/stream_backbone.py --backbone vit_g --compare                      and the same without streaming
python scripts/stream_backbone.py --backbone vit_7b_dinov3 --weights FILE         real weights, in safetensors or `hub`

Without --weights random ones are written first, and removed at the end, so that nothing is downloaded. Images are of
data=photos. Each way runs in a fresh process. It ends with 1 where the process took more memory than --limit, or where
--compare finds other taps.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import peftbench
from peftbench import backbones, config
from peftbench.backbones.weights import locate_weights_file
from peftbench.data.images import Batch
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs.build import instantiate, transform_of
from peftbench.runs.data_sets import load_splits
from peftbench.taps.in_file import read_rows
from peftbench.taps.store import InFile
from peftbench.tasks.base import task_class

ROUNDING = 1e-5  # of the largest value
RESERVE = 2**28  # bytes that stay free on the disk
DTYPES = {"float32": "F32", "bfloat16": "BF16"}
BATCH = 4  # images in a step of training


def spec_of(given: argparse.Namespace) -> config.Backbone:
    """The backbone that is asked for, with random weights."""
    spec = peftbench.compose(f"backbone={given.backbone}").backbone
    args = spec.args if given.blocks is None else dict(spec.args) | {"depth": given.blocks}
    return dataclasses.replace(spec, args=args, pretrained=False)


def settings_of(given: argparse.Namespace, method: str) -> peftbench.Config:
    """Those of a run on photos."""
    size = "null" if given.size is None else given.size
    return peftbench.compose(f"backbone={given.backbone}", f"method={method}", "data=photos", f"data.size={size}")


def require_room(folder: Path, weights: int, taps: int) -> None:
    """Exits with one sentence where the disk has no room for the files."""
    free = shutil.disk_usage(folder).free
    if weights + taps + RESERVE > free:
        needs = f"{weights / 1e9:.1f} GB of weights and {taps / 1e9:.1f} GB of taps"
        print(
            f"--folder {folder}: needs room for {needs}, and {free / 1e9:.1f} GB are free; make room, give another "
            f"folder, or fewer --images.",
            file=sys.stderr,
        )
        sys.exit(2)


def write_weights(path: Path, net: torch.nn.Module, dtype: torch.dtype) -> None:
    """Random weights in a safetensors file, tensor after tensor, each seeded by its name; `net` may be without them."""
    state = net.state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32, name
        size = tensor.numel() * dtype.itemsize
        code = DTYPES[str(dtype).removeprefix("torch.")]
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    with path.open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for name, tensor in state.items():
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
            values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)).mul_(0.02)
            if tensor.ndim == 1 and name.endswith("weight"):
                values += 1  # a norm's
            file.write(values.to(dtype).flatten().view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


@dataclasses.dataclass
class Costs:
    """Seconds of the clock and of the processor that each stage took."""

    stages: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        clock, processor = time.perf_counter(), time.process_time()
        yield
        self.stages[stage] = (time.perf_counter() - clock, time.process_time() - processor)


def peak() -> int:
    """The peak resident set of this process, mapped pages included, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def forget(path: Path) -> None:
    """Has the system drop its copy of a file, so that it is read from the disk again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def work(given: argparse.Namespace) -> dict[str, Any]:
    """One way, in a process of its own: builds, hands every tap on, and trains where it streams; what it cost."""
    streams = given.only == "streamed"
    spec = dataclasses.replace(spec_of(given), weights=given.weights, pretrained=True, stream=streams)
    path, costs = locate_weights_file(spec.name, spec.weights), Costs()
    settings = settings_of(given, "linear")
    forget(path)
    with costs.of("building"):
        backbone = backbones.build_with_weights(spec, given.size)
    split = load_splits(settings).train
    chosen = torch.linspace(0, len(split.images) - 1, given.images).long().tolist()
    transform = transform_of(settings, backbone)
    images = torch.stack([transform(split.images[i]) for i in chosen])
    targets = torch.as_tensor([int(split.labels[i]) for i in chosen]).unique(return_inverse=True)[1]
    emit, found = (writer if streams else comparer)(given.folder)
    forget(path)
    with torch.no_grad():
        images = Model.normalize(_model(backbone, settings, 2), images)
        with costs.of("filling"):
            backbone.taps(images, emit=emit)
    trained = {}
    for method in given.train if streams else ():
        with costs.of(f"training {method}"):
            trained[method] = train(given, backbone, method, targets)
    result = {"peak": peak(), "parameters": backbone.facts.parameters, "trained": trained, "stages": costs.stages}
    return result | dict(found)


def writer(folder: Path) -> tuple[Callable[[int, Tensor], None], dict[str, Any]]:
    """Takes each tap as it is computed and writes it to a file of its own."""

    def write(index: int, tap: Tensor) -> None:
        with (folder / f"tap-{index:02d}.bin").open("wb") as file:
            file.write(tap.contiguous().numpy().data)
        print(f"tap {index} after {time.process_time():.0f} s of the processor", file=sys.stderr)

    return write, {}


def rows_of(files: Sequence[InFile], rows: Tensor) -> list[Tensor]:
    """Some rows of taps in files, (len(rows), …) each."""
    taps = [torch.empty((len(rows), *file.shape[1:]), dtype=file.dtype) for file in files]
    read_rows(files, rows, taps)
    return taps


def comparer(folder: Path) -> tuple[Callable[[int, Tensor], None], dict[str, Any]]:
    """Compares each tap with the file that `writer` left."""
    found: dict[str, Any] = {"taps": 0, "equal": 0, "error": 0.0}

    def compare(index: int, tap: Tensor) -> None:
        theirs = InFile(folder / f"tap-{index:02d}.bin", len(tap), tap.shape[1:], tap.dtype)
        other = rows_of([theirs], torch.arange(len(tap)))[0]
        found["taps"] += 1
        found["equal"] += torch.equal(other, tap)
        found["error"] = max(found["error"], ((other - tap).abs().max() / tap.abs().max()).item())

    return compare, found


def _model(backbone: backbones.Backbone, settings: peftbench.Config, classes: int) -> Model:
    task = task_class(settings.task).build(settings.task, backbone, [str(i) for i in range(classes)], None)
    return Model(backbone, task, backbone.facts.mean, backbone.facts.std)


def train(given: argparse.Namespace, backbone: backbones.Backbone, method: str, targets: Tensor) -> dict[str, Any]:
    """Trains a side method from the files, at batches of 4: the mean loss of each epoch and its parameters."""
    settings = settings_of(given, method)
    torch.manual_seed(0)
    built = instantiate(settings.method)
    built.check(backbone)
    model = _model(backbone, settings, int(targets.max()) + 1)
    model.adapted(built.adapt(backbone, Plan()))
    facts = backbone.facts
    files = [
        InFile(given.folder / f"tap-{facts.index(i):02d}.bin", given.images, facts.taps[i].shape, torch.float32)
        for i in model.kept
    ]
    trainable = [p for _, p in model.trainable()]
    optimizer = torch.optim.AdamW(trainable, settings.optimizer.lr)
    model.train()
    losses = []
    for epoch in range(given.epochs):
        order = torch.randperm(given.images, generator=torch.Generator().manual_seed(epoch)).split(BATCH)
        total = 0.0
        for rows in order:
            read = model.condense(rows_of(files, rows))
            loss = model.loss(Batch(torch.empty(len(rows), 3, 0, 0, dtype=torch.uint8), targets[rows]), read)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / given.images)
    return {"losses": losses, "parameters": sum(p.numel() for p in trainable), "steps": given.epochs * len(order)}


def reading(path: Path) -> float:
    """Seconds that reading every weight takes, from the disk into memory of its own, as fp32."""
    forget(path)
    begun = time.perf_counter()
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(path, framework="pt") as file:  # opened anew, as streaming does, so that pages are given back
            file.get_tensor(name).to(torch.float32, copy=True)
    return time.perf_counter() - begun


def rate(tokens: int, width: int) -> float:
    """Floating operations a second of the products that a block of this width computes."""
    a, b = torch.randn(tokens, width), torch.randn(width, width)
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - begun)
    return 2 * tokens * width**2 / sorted(seconds)[1]


def arithmetic(meta: backbones.Backbone) -> int:
    """Floating operations of one image's features."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta.taps(torch.empty(1, 3, *meta.facts.canvas, device="meta"))
    return counter.get_total_flops()


def main() -> int:
    given = words().parse_args()
    if given.only:
        print(json.dumps(work(given)))
        return 0
    meta = backbones.build_on_meta(spec_of(given), given.size)
    taps = given.images * sum(torch.empty(t.shape, device="meta").nbytes for t in meta.facts.taps)
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        path, dtype = Path(place) / "weights.safetensors", getattr(torch, given.dtype)
        require_room(Path(place), 0 if given.weights else meta.facts.parameters * dtype.itemsize, taps)
        if given.weights:
            path = locate_weights_file(meta.facts.name, given.weights)
        else:
            write_weights(path, meta.net, dtype)
        results = {}
        for way in ("streamed", "ordinary") if given.compare else ("streamed",):
            more = ["--only", way, "--weights", str(path), "--folder", place]
            command = [sys.executable, __file__, *sys.argv[1:], *more]
            results[way] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        size, read = path.stat().st_size, reading(path)
    return told(given, meta, results, size, read)


def told(given: argparse.Namespace, meta: backbones.Backbone, results: dict[str, Any], size: int, read: float) -> int:
    """Prints what was measured; the exit status."""
    ours, facts = results["streamed"], meta.facts
    count = f"{ours['parameters']:,} parameters, a file of {size / 1e9:.2f} GB"
    print(
        f"{facts.name}, {count}, {given.images} images of {facts.canvas[0]} pixels, {torch.get_num_threads()} threads"
    )
    print("|  | peak resident set | building | filling all taps | of it processor time |")
    print("| --- | --- | --- | --- | --- |")
    for way, it in results.items():
        building, (filling, processor) = it["stages"]["building"][0], it["stages"]["filling"]
        print(f"| {way} | {it['peak'] / 1e9:.2f} GB | {building:.1f} s | {filling:.1f} s | {processor:.1f} s |")
    filled = ours["stages"]["filling"][0]
    operations = given.images * arithmetic(meta)
    tokens = given.images * max(facts.taps[-1].shape[0], 1)
    multiplying = operations / rate(min(tokens, 8192), facts.taps[-1].channels)
    print(
        f"{filled / given.images:.2f} s an image. For {given.images} images: reading {size / 1e9:.2f} GB from the disk "
        f"alone {read:.1f} s ({size / read / 1e9:.2f} GB/s), {operations / 1e12:.2f} T operations at the rate of a "
        f"product of this width alone {multiplying:.1f} s ({operations / multiplying / 1e9:.0f} G/s)"
    )
    for method, it in ours["trained"].items():
        seconds = ours["stages"][f"training {method}"][0] / it["steps"]
        print(
            f"{method}: {it['parameters']:,} parameters, {it['steps']} steps of {BATCH} images, {seconds:.2f} s each; "
            f"loss {it['losses'][0]:.3f} in the first epoch, {it['losses'][-1]:.3f} in the last"
        )
    failed = ours["peak"] > given.limit * 1e9
    if failed:
        print(f"the streamed process took {ours['peak'] / 1e9:.2f} GB, more than {given.limit:g}", file=sys.stderr)
    if given.compare:
        theirs = results["ordinary"]
        print(f"{theirs['equal']} of {theirs['taps']} taps are equal to the bit; largest error {theirs['error']:.1e}")
        failed |= theirs["error"] > ROUNDING
    return int(failed)


def words() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_g", help="a name in configs/backbone")
    parser.add_argument("--blocks", type=int, help="so many blocks of it, where the model takes a depth")
    parser.add_argument("--weights", help="a safetensors file of it, or hub; default: random ones")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of random weights in the file")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, help="pixels of a side; default: what the model was trained with")
    parser.add_argument("--train", nargs="*", default=["losa", "attentive"], help="side methods, one after the other")
    parser.add_argument("--epochs", type=int, default=3, help="of each")
    parser.add_argument("--compare", action="store_true", help="fill them without streaming too, and compare")
    parser.add_argument("--limit", type=float, default=3.0, help="GB that the streamed process may take")
    parser.add_argument("--folder", type=Path, help="where weights and taps fit; default: the system's temporary one")
    parser.add_argument("--only", choices=["streamed", "ordinary"], help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
