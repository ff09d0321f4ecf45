"""`peftbench benchmark`: what each file of a run is worth on this machine, beside the model in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftbench.common.errors import Refusal, UserError
from peftbench.common.notes import note
from peftbench.common.progress import Stages, unwatched
from peftbench.data.base import Split
from peftbench.data.batch_indices import Indices
from peftbench.results.shipped import FILE, Benchmark, Shipped, refuse_others, this_machine, with_new, write_benchmark
from peftbench.results.task_results import results_of_record
from peftbench.runs.data_sets import load_splits
from peftbench.tasks.base import task_class
from peftbench.tasks.evaluator import Evaluator, Judged
from peftbench.tuned.benchmark.asked import TORCH, Measured, chosen_formats, chosen_threads
from peftbench.tuned.benchmark.processes import Process, started
from peftbench.tuned.benchmark.worker import BATCHES
from peftbench.tuned.evaluation_words import evaluator_of
from peftbench.tuned.export.files import export, of_one_pass
from peftbench.tuned.export.placing import made_aside
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.load import Tuned, load
from peftbench.tuned.run_folder import companions, export_name, lossy
from peftbench.tuned.runtimes import open_exported

_ROUNDS = 5
_DECODED = 64  # images at a time


@dataclass(frozen=True)
class Pictures:
    """The images that files are judged on.

    Attributes:
        file: of their pixels, uint8 (N, 3, H, W), as NumPy has it.
        split: those that could be read.
        batches: their targets, in parts of `_DECODED`.
        told: their name, number and hash.
    """

    file: Path
    split: Split
    batches: Sequence[Any]
    told: Mapping[str, Any]


def benchmark(
    run: str | Path | FinishedRun,
    formats: Sequence[str] = (),
    images: str | Path | None = None,
    labels: str | Path | None = None,
    *,
    threads: Sequence[int] = (1,),
    seconds: float = 0.4,
    force: bool = False,
    config_dir: str | Path | None = None,
    watch: Stages = unwatched,
) -> Benchmark:
    """Measures the files of a finished run on this machine and writes `benchmark.json` and `benchmark.csv` beside it.

    A file that is not in the run's folder is exported first. Each format has a process of its own for each number of
    threads; all are there at once and take turns, so that a busy moment meets all of them.

    Args:
        run: the folder of a complete run, or what `open_run` gave for it.
        formats: `torch`, or what `peftbench export` writes, such as `onnx` and `onnx-int8`; without any all whose
            libraries are here.
        images: labelled images in the place of the run's test images: a folder of class folders, or what the paths in
            `labels` are relative to.
        labels: a CSV with the columns path and label.
        threads: numbers of threads.
        seconds: of a turn; there are five for each format, number of threads and size of batch.
        force: replace figures that are there, of another machine too.
        config_dir: a folder with YAML of your own.
        watch: called with what is done, how much of it is, and of how much.

    Raises:
        UserError: no finished run, an unknown format, a missing library, no image, or a file that does not run.
        Refusal: the run cannot be measured so, or figures of another machine are there.
    """
    wanted = chosen_formats(formats)
    counts = chosen_threads([str(number) for number in threads])
    run = run if isinstance(run, FinishedRun) else open_run(run, config_dir)
    evaluator = _refuse(run)
    with made_aside(run.folder / FILE) as folder:
        tuned = load(of_one_pass(run), merge=False)
        pictures = _pictures(run, tuned, evaluator, images, labels, folder, watch)
        machine = this_machine()
        before = refuse_others(run.folder, machine, pictures.told, force)
        places: dict[str, Path] = {}
        for done, each in enumerate(wanted):
            watch("exporting", done, len(wanted))
            places[each.name] = run.folder if each.format == TORCH else _file_of(run, each, folder)
        reference = [] if any(each.format == TORCH for each in wanted) else [(Measured(TORCH, TORCH), counts[0])]
        pairs = [(each, number) for number in counts for each in wanted]
        with started([*pairs, *reference]) as processes:
            opened = _opened(processes, places | {TORCH: run.folder}, pictures, config_dir, watch)
            timed = _in_turns(processes[: len(pairs)], seconds, watch)
            peaks = [process.ask("memory")["bytes"] for process in processes[: len(pairs)]]
            logits = _logits(processes, folder, watch)
        truth = next(
            answer for process, answer in zip(processes, logits, strict=True) if process.measured.format == TORCH
        )
        metric = results_of_record(run.record).metric
        rows = []
        for at, (each, number) in enumerate(pairs):
            judged = Judged(_predictions(tuned, logits[at], pictures), pictures.split, tuned.classes, tuned.model.task)
            size = opened[at]["size"] or _size(places[each.name], each.format)
            rows.append(
                Shipped(
                    format=each.name,
                    threads=number,
                    size=size,
                    score=float(evaluator.headline(judged)[metric]),
                    agreement=_agreement(logits[at], truth),
                    logit_difference=float(np.abs(logits[at] - truth).max() / max(1e-3, np.abs(truth).max())),
                    memory=peaks[at],
                    load=opened[at]["load"],
                    library=opened[at]["library"],
                    measured=datetime.now(UTC).strftime("%Y-%m-%d"),
                    **_times(timed[at]),
                )
            )
        made = with_new(before, Benchmark(run.record.id, metric, machine, pictures.told, rows))
        write_benchmark(run.folder, made)
    return made


def _refuse(run: FinishedRun) -> Evaluator:
    """How the run is judged. Raises Refusal where its files give no single tensor, or cannot be judged."""
    task = task_class(run.config.task)
    if not task.predicts_tensor:
        raise Refusal(
            f"run={run.folder}: is of task={run.config.task.name}, whose files give no single tensor, and these alone "
            f"are measured; peftbench evaluate judges the {task.kind_of_model}."
        )
    return evaluator_of(run)


def _pictures(
    run: FinishedRun,
    tuned: Tuned,
    evaluator: Evaluator,
    images: str | Path | None,
    labels: str | Path | None,
    folder: Path,
    watch: Stages,
) -> Pictures:
    """The pixels as the model takes them, in a file. Raises UserError where there are none."""
    if images is None:
        if labels is not None:
            raise UserError(f"labels={labels}: are of images; give images=FOLDER too.")
        splits = load_splits(run.config)
        if splits.test is None:
            raise UserError(f"run={run.folder}: its data have no test images; give images=FOLDER.")
        name, split = splits.name, splits.test
    else:
        labelled = evaluator.read(images, labels, run.classes)
        name, split = labelled.name, evaluator.known(labelled, run.classes, run.categories, "refuse").split
    transform = tuned.transform.plain()
    parts, batches = [], []
    for first in range(0, len(split), _DECODED):
        watch("decoding", first, len(split))
        part = split.take(list(range(first, min(first + _DECODED, len(split)))))
        decoded = transform.over(part, "refuse", 1.0, lambda done, of: None)
        batch = decoded.__getitems__(Indices(range(len(decoded.split)), None))
        parts.append(batch.images.numpy())
        batches.append(batch._replace(images=torch.empty(0)))
    if not parts:
        raise UserError(f"run={run.folder}: there is no image to measure on.")
    np.save(file := folder / "images.npy", np.concatenate(parts))
    return Pictures(file, split, batches, {"name": name, "number": len(split), "hash": split.content})


def _file_of(run: FinishedRun, each: Measured, folder: Path) -> Path:
    """The file in the run's folder, exported if it is not there; one that is of another kind is left alone."""
    usual = run.folder / export_name(each.format, each.precision)
    for there in (usual, lossy(usual)):
        if not there.exists():
            continue
        said = open_exported(there).told
        if said.get("run") == run.metadata.get("run") and said.get("inside", "normalise") == "normalise":
            return there
        note(f"{there}: resizes images itself, or is of another run; what is measured is exported anew.")
        return export(run, each.format, folder / usual.name, precision=each.precision).path
    return export(run, each.format, precision=each.precision).path


def _size(path: Path, form: str) -> int:
    """Bytes of a file, with its weights where these lie in another one."""
    weights = [file for file in companions(path, form) if file.suffix != ".json"]
    return sum(file.stat().st_size for file in (path, *weights))


def _opened(
    processes: Sequence[Process],
    places: Mapping[str, Path],
    pictures: Pictures,
    config_dir: str | Path | None,
    watch: Stages,
) -> list[dict[str, Any]]:
    """What each says of how it opened its file; one after the other, so that none waits for the disk of another."""
    answers = []
    for done, process in enumerate(processes):
        watch("opening", done, len(processes))
        answers.append(
            process.ask(
                "open",
                format=process.measured.format,
                place=str(places[process.measured.name].absolute()),
                threads=process.threads,
                images=str(pictures.file.absolute()),
                config_dir=None if config_dir is None else str(config_dir),
            )
        )
    return answers


def _in_turns(processes: Sequence[Process], seconds: float, watch: Stages) -> list[dict[int, list[float]]]:
    """Milliseconds of each process by size of batch: all take turns, and the first answer of a turn does not count."""
    times: list[dict[int, list[float]]] = [{size: [] for size in BATCHES} for _ in processes]
    turns = [(size, at) for _ in range(_ROUNDS) for size in BATCHES for at in range(len(processes))]
    for done, (size, at) in enumerate(turns):
        watch("measuring", done, len(turns))
        times[at][size] += processes[at].ask("turn", batch=size, seconds=seconds)["ms"]
    return times


def _times(by_size: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    medians = {str(size): float(np.median(times)) for size, times in by_size.items()}
    largest = max(by_size)
    return {
        "latency": medians,
        "p95": {str(size): float(np.percentile(times, 95)) for size, times in by_size.items()},
        "throughput": 1000 * largest / medians[str(largest)],
    }


def _logits(processes: Sequence[Process], folder: Path, watch: Stages) -> list[np.ndarray]:
    """What each says of all images."""
    answers = []
    for done, process in enumerate(processes):
        watch("judging", done, len(processes))
        process.ask("logits", out=str(file := (folder / f"logits-{done}.npy").absolute()))
        answers.append(np.load(file))
        file.unlink()
    if any(answer.shape != answers[0].shape for answer in answers):
        shapes = " and ".join(sorted({str(answer.shape) for answer in answers}))
        raise UserError(f"the files give logits of several shapes ({shapes}), so nothing is written.")
    return answers


def _predictions(tuned: Tuned, logits: np.ndarray, pictures: Pictures) -> Any:
    """In the form that the task's figures are worked out of."""
    parts, at = [], 0
    for batch in pictures.batches:
        size = len(batch.targets)
        parts.append(tuned.model.task.of_logits(torch.from_numpy(logits[at : at + size]), batch))
        at += size
    return torch.cat(parts).float() if isinstance(parts[0], torch.Tensor) else [one for part in parts for one in part]


def _agreement(logits: np.ndarray, truth: np.ndarray) -> float | None:
    if logits.shape[1] < 2:
        return None
    share = float((logits.argmax(1) == truth.argmax(1)).mean())
    return None if math.isnan(share) else share
