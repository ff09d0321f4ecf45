"""The model of a finished run, with what it takes to use it. Needs neither Lightning nor Hydra."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from peftbench import backbones, config, deltas
from peftbench.common.errors import Refusal, UserError
from peftbench.common.precisions import HALF
from peftbench.common.seeds import random_numbers_kept
from peftbench.common.tf32 import tf32
from peftbench.config import Config
from peftbench.data.decoding import Picture, opened
from peftbench.data.images import Preparation
from peftbench.data.moving import to_host
from peftbench.deltas import peft_adapter
from peftbench.methods.base import Plan
from peftbench.methods.shared.peft_adapters import method_of_adapter
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.build import build_backbone, transform_of
from peftbench.runs.plan_file import plan_hash
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.inputs import InputCheck
from peftbench.tuned.pruned_file import with_pruned_file
from peftbench.tuned.rebuild import rebuild_model

if TYPE_CHECKING:
    from peftbench.results.evaluation_file import Evaluation


class Tuned(nn.Module):
    """A tuned model with what it takes to use it.

    Attributes:
        model: backbone, method and head.
        transform: `transform(image)` is the model's input (3, S, S) in uint8, of a file, a PIL image or pixels; of a
            detector, pixels and where they lie on the input.
        classes: their names, in the order of the logits.
        run: what it was made of.
        merged: whether the method's update has been folded into the weights.
        dequantized: whether the weights of a quantized backbone have become plain tensors.
        inputs: looks at what it is called with, outside tracing.
    """

    def __init__(
        self, run: FinishedRun, model: Model, transform: Preparation, merged: bool, dequantized: bool = False
    ) -> None:
        super().__init__()
        self.dequantized = dequantized
        self.run, self.model, self.transform, self.merged = run, model, transform, merged
        self.classes = run.classes
        detects, clips = model.task.finds_boxes, run.frames is not None
        stack = "tuned(torch.stack([tuned.transform(frame) for frame in {}])[None])"
        call = "tuned.detect({})" if detects else stack if clips else "tuned(tuned.transform({})[None])"
        self.inputs = InputCheck("tuned.transform", call, transform.mean, transform.std)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.model.mean.device

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Within it, it computes in the arithmetic that the run was tested in."""
        half = HALF[self.run.config.trainer.precision]
        if half is torch.float16 and self.device.type == "cpu":  # trained on a GPU; this has no such arithmetic
            half = None
        with torch.autocast(self.device.type, half, enabled=half is not None), tf32(self.run.config.trainer.tf32):
            yield

    @torch.no_grad()
    def detect(self, image: Picture) -> dict[str, Tensor]:
        """What a tuned detector finds on an image: a file, a PIL image, or uint8 pixels (h, w) or (h, w, 3).

        The best come first.

        `boxes` (n, 4), x1 y1 x2 y2 in pixels of the upright image, `scores` (n,), `labels` (n,), indices of `classes`;
        of a run with `task.masks=true` also `masks`, bool (n, h, w), the pixels of each in the upright image.

        Raises:
            UserError: the run is no detector's, or the image cannot be read.
        """
        if not self.model.task.finds_boxes:
            raise UserError(f"{self.run.folder}: is of task={self.run.config.task.name}; only a detector detects.")
        pixels, target = self.transform(image)
        answer = to_host(self.model.evaluate((pixels[None].to(self.device), [target])))[0]
        found: dict[str, Tensor] = self.model.task.unpacked(answer, target)
        return found

    @torch.no_grad()
    def segment(self, image: Picture) -> Tensor:
        """The class of each pixel of an image: a file, a PIL image, or uint8 pixels (h, w) or (h, w, 3).

        uint8 (h, w) in the size of the upright image: indices of `classes`.

        Raises:
            UserError: the run is of another task, or the image cannot be read.
        """
        if not self.model.task.segments:
            raise UserError(f"{self.run.folder}: is of task={self.run.config.task.name}; only a segmenter segments.")
        whole = opened(image, self.transform.range)
        target = {"true": torch.empty((whole.height, whole.width), dtype=torch.uint8, device=self.device)}
        pixels = self.transform(whole)[None].to(self.device)
        mask: Tensor = self.model.evaluate((pixels, [target]))[0]
        return mask.cpu()

    def evaluate(
        self, images: str | Path | None = None, labels: str | Path | None = None, **options: Any
    ) -> Evaluation:
        """Judges this model on new labelled images, as `peftbench.evaluate` does, and writes a record beside the run's.

        It looks at the images with the weights as they are in memory, on their device, and the record is of the run's
        delta: a model whose weights were changed by hand since it was loaded is none of the run's.

        Args:
            images: a folder of class folders, or what the paths in `labels` are relative to.
            labels: a CSV with the columns path and label, or for a detector COCO's JSON.
            options: `data`, `ood`, `temperature`, `unknown`, `seed`, `config_dir` and `watch` of `peftbench.evaluate`.

        Raises:
            UserError: as `peftbench.evaluate`.
        """
        from peftbench.tuned.evaluating import evaluate_model

        return evaluate_model(self, images, labels, **options)

    def forward(self, images: Tensor) -> Tensor:
        """Predictions for uint8 images (B, 3, S, S), or clips (B, T, 3, S, S); floating ones are normalised.

        A classifier gives logits (B, classes). Floating images that are all in [0, 1] are noted once, since they are
        hardly normalised (`tuned.inputs` says when values are looked at).

        Raises:
            UserError: these are no tensor, pixels from 0 to 255 in floating numbers, floating images of another type
                than the model's (float32), or with NaN.
        """
        self.inputs.check(images, self.model.mean.dtype)
        return self.model(images)


def load(
    run: str | Path | FinishedRun,
    *,
    merge: bool | Literal["dense", "masked"] = True,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    config_dir: str | Path | None = None,
    dequantize: bool = False,
) -> Tuned:
    """The tuned model of a run's folder, in eval mode, on the CPU.

        tuned = peftbench.load("outputs/lora-vit_s-photos-s0-0123456789")
        logits = tuned(tuned.transform("cat.jpg")[None])
        print(tuned.classes[logits.argmax()])

    Args:
        run: the folder of a complete run, or what `open_run` gave for it.
        merge: fold the update into the weights, where the method can: as fast as the plain backbone. On a backbone
            pruned to zeros True does what the run's `pruning.merge` says; "dense" merges over the zeros, "masked" keeps
            them, where that does not change what the model computes. On a quantized backbone updates stay beside the
            weights, unless these are dequantized.
        weights: where the backbone's weights lie, if they have moved since the run.
        adapter: a folder in which Hugging Face's PEFT has saved LoRA of linear layers (rsLoRA and DoRA too); it takes
            the delta's place.
        config_dir: a folder with the YAML of a method of your own.
        dequantize: the weights of a quantized backbone become the plain tensors that they stand for, which take more
            memory and compute the same but for rounding. merge="dense" does so, too.

    Raises:
        UserError: no such run, an incomplete or damaged one, or weights that are not those it was trained from.
    """
    run = run if isinstance(run, FinishedRun) else open_run(run, config_dir)
    if weights is not None:
        run = dataclasses.replace(run, config=with_weights(run.config, str(weights)))
    else:
        run = with_pruned_file(run)
    if adapter is not None:
        run = _adapted(run, Path(adapter).expanduser())
    with random_numbers_kept():
        backbone = build_backbone(run.config)
    plain = bool(backbone.quantized) and (dequantize or merge == "dense")
    model = rebuild_model(run, backbone, plain=plain)
    if isinstance(merge, str) and not plain:
        backbone.merging = _merging(run, backbone, merge)
    merges = bool(merge) and run.method.foldable and backbone.merging != "unmerged"
    if merges:
        run.method.merge(backbone)
        deltas.drop_cached_values(model)
    return Tuned(run, model.requires_grad_(False), transform_of(run.config, backbone), merges, plain).eval()


def _merging(run: FinishedRun, backbone: backbones.Backbone, wanted: str) -> str:
    """How to merge, where the user says so. Raises Refusal where that would change what the model computes."""
    trained = "" if backbone.quantized else backbone.merging
    if wanted not in ("dense", "masked"):
        raise UserError(f"merge={wanted}: expected dense or masked; without it a run is merged as it was trained.")
    if not trained and wanted == "masked":
        raise Refusal(f"merge=masked: the backbone of {run.folder} was not pruned to zeros; leave merge out.")
    if trained and (wanted == "masked") != (trained == "masked"):
        without = "without" if wanted == "masked" else "with"
        raise Refusal(
            f"merge={wanted}: {run.folder} was trained {without} the mask on its updates (pruning.merge={trained}), so "
            f"merging them so would change the model; leave merge out, or train with pruning.merge={wanted}."
        )
    return wanted if trained else ""


def _adapted(run: FinishedRun, folder: Path) -> FinishedRun:
    """The run with a PEFT adapter in the place of its method and delta."""
    stamp = run.record.stamps["backbone"]
    for key, made, without in (
        ("pruning", "pruned", "pruning=none"),
        ("quantize", "quantized", "no backbone.quantize"),
    ):
        if stamp.get(key):
            raise Refusal(
                f"adapter={folder}: PEFT's adapters are of timm's whole weights, and the backbone of {run.folder} was "
                f"{made}; give the folder of a run with {without}."
            )
    timm_model = backbones.build_on_meta(run.config.backbone, starting_backbone.input_size(run.config))
    peft = peft_adapter.read_adapter(folder, timm_model.classifiers)
    if peft.fingerprint not in ("", run.metadata["fingerprint"]):
        raise Refusal(
            f"adapter={folder}: was made on a backbone with fingerprint {peft.fingerprint[:12]}, and that of "
            f"{run.folder} has {run.metadata['fingerprint'][:12]}; give the folder of a run on the same weights."
        )
    name, path, method = method_of_adapter(peft.form, peft.layers)
    options = json.loads(json.dumps(dataclasses.asdict(method)))
    spec = config.Method(name, path, options)
    metadata = {**run.metadata, "method": name, "options": json.dumps(options), "plan": plan_hash(Plan())}
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, method=spec),
        method=method,
        plan=Plan(),
        tensors=peft.tensors,
        metadata=metadata,
        source=folder / peft_adapter.WEIGHTS,
    )


def choose_device(device: str = "auto") -> torch.device:
    """The device of that name; `auto` is a GPU where there is one. Raises UserError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=device)
        probe.item()  # the meta device takes tensors, and holds nothing
    except (RuntimeError, AssertionError):  # torch's own text is long, and lists what it could be built for
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(f"device={device}: torch has no such device here; expected {', '.join(here)}.") from None
    return probe.device


def with_weights(spec: Config, weights: str) -> Config:
    """The config with weights that lie elsewhere: those of the whole model, where the run started from its file."""
    for option in config.task_schema(vars(spec.task)).files:
        if getattr(spec.task, option) is not None:
            return dataclasses.replace(spec, task=dataclasses.replace(spec.task, **{option: weights}))
    return dataclasses.replace(spec, backbone=dataclasses.replace(spec.backbone, weights=weights))
