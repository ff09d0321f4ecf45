"""The model of a finished run, rebuilt from its folder: config, plan and delta. Needs neither Lightning nor Hydra."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from peftbench import backbones, config, deltas, pruning
from peftbench.common.errors import Refusal, UserError
from peftbench.config import Config
from peftbench.data.images import Picture, Transform
from peftbench.deltas import peft_adapter
from peftbench.methods.base import Method, Plan
from peftbench.methods.lora import LoRA
from peftbench.models.model import Model
from peftbench.results import Record, read_record
from peftbench.runs import starting_backbone
from peftbench.runs.build import build_backbone, instantiate, transform_of
from peftbench.runs.plan_file import CONFIG, PLAN, _hash, read_plan
from peftbench.tasks import making as tasks
from peftbench.tasks.detection import schema
from peftbench.tasks.detection.scenes import SceneTransform


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run as its folder tells it; no weights of a backbone have been read.

    Attributes:
        tensors, metadata: the delta.
        source: where it was read, for messages.
    """

    folder: Path
    record: Record
    config: Config
    method: Method
    plan: Plan
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    source: Path

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(json.loads(self.metadata["classes"]))

    @property
    def categories(self) -> tuple[int, ...]:
        """The numbers of the classes in the files of a detection set; empty otherwise."""
        return tuple(json.loads(self.metadata.get("categories", "[]")))

    @property
    def frames(self) -> int | None:
        """The frames of a clip; None where the run was on images."""
        return self.record.stamps["data"].get("frames")

    def model(self, backbone: backbones.Backbone, shared: str = "") -> Model:
        """The tuned model, in eval mode, of a backbone as it is before any method; the method changes it.

        Args:
            shared: whose the backbone is where it is not the run's own, for messages.

        Raises:
            Refusal: the delta belongs to another backbone, mask, plan, method or option; says which.
        """
        self._fits(backbone, shared)
        with torch.random.fork_rng():  # what starts at random is replaced by the delta
            task = tasks.make(self.config.task, backbone, self.classes, self.categories)
            tasks.start(task, self.config.task, self.config.backbone)
            scale = transform_of(self.config, backbone)
            model = Model(backbone, task, scale.mean, scale.std)
            starting_backbone.as_merged(backbone, self.config, self.method)
            if (trained := self.metadata.get("merge", backbone.merging)) != backbone.merging:
                raise Refusal(
                    f"{self.source}: was trained with pruning.merge={trained}, and {self.folder / CONFIG} has "
                    f"{backbone.merging}; give the folder of the run as it was left."
                )
            self.method.check(backbone)
            model.adapted(self.method.adapt(backbone, self.plan))
        model.eval()
        deltas.attach(model, self.tensors, str(self.source))
        return model

    def _fits(self, backbone: backbones.Backbone, shared: str) -> None:
        told, spec = self.metadata, self.config
        if told["run"] != self.record.id:
            raise Refusal(
                f"{self.source}: is of run {told['run']}, and {self.folder} of {self.record.id}; give the folder of "
                f"the run as it was left."
            )
        theirs = {"name": told["method"], **json.loads(told["options"])}
        ours = {"name": spec.method.name, **spec.method.options}
        for key in {**theirs, **ours}:
            a, b = theirs.get(key, "nothing"), ours.get(key, "nothing")
            if a != b:
                raise Refusal(
                    f"{self.source}: was made with method.{key}={a}, and {self.folder / CONFIG} has method.{key}={b}; "
                    f"a delta fits only the method and options that it was made with."
                )
        if told["task"] != spec.task.name:
            raise Refusal(f"{self.source}: is of task={told['task']}, and {self.folder / CONFIG} of {spec.task.name}.")
        self._same_model(backbone, shared)
        known = self.record.stamps.get("task", {}).get("sha256", "")
        found = tasks.stamp(spec.task, tasks.file_of(spec.task, spec.backbone)).get("sha256", "")
        if found != known:  # what of the detector did not train is in that file alone
            raise Refusal(
                f"{self.source}: was made from a detector with sha256 {known[:12] or 'nothing'}, and the file of "
                f"task.weights={spec.task.weights} has {found[:12] or 'nothing'}; give the one that it was made from "  # type: ignore[attr-defined]
                f"with weights=FILE."
            )
        if (found := backbone.fingerprint) != told["fingerprint"]:
            raise self._other_weights(backbone, shared, found)
        prepares = json.loads(json.dumps(dataclasses.asdict(transform_of(spec, backbone))))
        prepared = json.loads(told.get("transform", "{}"))
        for key in prepares:  # no shape of a tensor shows these
            if key != "augment" and prepares[key] != prepared.get(key, prepares[key]):
                raise Refusal(
                    f"{self.source}: was trained on images with {key}={prepared[key]}, and "
                    f"{shared or self.folder / CONFIG} wants {key}={prepares[key]}; a delta fits only images that are "
                    f"prepared as those were."
                )
        if told.get("plan", found := _hash(self.plan)) != found:
            raise Refusal(
                f"{self.source}: was made with another plan than the one in {self.folder / PLAN}.json; give the folder "
                f"of the run as it was left."
            )

    def _same_model(self, backbone: backbones.Backbone, shared: str) -> None:
        """Raises Refusal where the backbone is another model, or is pruned otherwise, than the delta's."""
        told, name = self.metadata, backbone.facts.name
        if _untagged(told["backbone"]) != _untagged(name):
            ours = shared or f"backbone.name in {self.folder / CONFIG}"
            raise Refusal(
                f"{self.source}: was made on {told['backbone']}, and {ours} is {name}; a delta fits only the backbone "
                f"that it was made on."
            )
        stamp = self.record.stamps["backbone"].get("pruning", {})
        theirs = "unstructured" if told["mask"] else "structured" if "kept" in stamp else "none"
        ours = "unstructured" if backbone.masks else "structured" if backbone.kept else "none"
        if theirs != ours:
            raise Refusal(
                f"{self.source}: was made on {told['backbone']} with pruning={theirs}, and {shared or 'this backbone'} "
                f"has pruning={ours}; a delta fits only the pruned backbone that it was made on."
            )
        if (mask := pruning.mask_hash(backbone.masks)) != told["mask"]:
            raise Refusal(
                f"{self.source}: was made on {told['backbone']} with the pruning mask {told['mask'][:12]}, and "
                f"{shared or 'this backbone'} has {mask[:12]}; a delta fits only the mask that it was made under."
            )

    def _other_weights(self, backbone: backbones.Backbone, shared: str, found: str) -> Refusal:
        """Of a backbone of the same architecture whose starting tensors are others."""
        told, name = self.metadata, backbone.facts.name
        made = f"{self.source}: was made on {told['backbone']}"
        size = str(backbone.facts.input_size)
        if told.get("input_size", size) != size:  # a ViT's position embeddings are of its grid
            where = shared or f"data.size in {self.folder / CONFIG}"
            return Refusal(
                f"{made} for images of {told['input_size']} pixels, and {where} is for {size}, which gives it other "
                f"weights; a delta fits only the size that it was made for."
            )
        made += f" with fingerprint {told['fingerprint'][:12]}"
        if shared:
            return Refusal(
                f"{made}, and {shared} is {name} with {found[:12]}; tasks share one backbone only where all were made "
                f"on its very weights."
            )
        return Refusal(
            f"{made}, and {name} of backbone.weights={self.config.backbone.weights} has {found[:12]}; give the weights "
            f"that it was made on with weights=FILE."
        )


def _untagged(name: str) -> str:
    """Of a timm name, the architecture alone."""
    return name.partition(".")[0]


def open_run(folder: str | Path, config_dir: str | Path | None = None) -> Run:
    """What the folder of a complete run holds.

    Args:
        config_dir: a folder with the YAML of a method of your own.

    Raises:
        UserError: there is no run, it is not complete, or a file of it is missing, damaged or of another version.
    """
    folder = Path(folder).expanduser()
    own = [] if config_dir is None else [Path(config_dir).expanduser()]
    if own and not own[0].is_dir():
        raise UserError(f"config_dir={config_dir}: there is no such folder; give the one with your own YAML files.")
    if folder.is_file():
        raise UserError(f"run={folder}: is a file; give the folder of the run, such as {folder.parent}.")
    record = read_record(folder, "; a run's model is made again only with the record that it wrote")
    if record is None:
        raise UserError(f"run={folder}: holds no result.json; give the folder of a run, such as outputs/<run id>.")
    if record.status != "complete":
        why = f" ({record.reason})" if record.reason else ""
        raise UserError(f"run={folder}: is not complete but {record.status}{why}; the same command finishes a run.")
    spec = config.restored(folder / CONFIG, own)
    tensors, told = deltas.load(folder / deltas.FILE)
    return Run(folder, record, spec, instantiate(spec.method), read_plan(folder), tensors, told, folder / deltas.FILE)


class Tuned(nn.Module):
    """A tuned model with what it takes to use it.

    Attributes:
        model: backbone, method and head.
        transform: `transform(image)` is the model's input (3, S, S) in uint8, of a file, a PIL image or pixels; of a
            detector, see `SceneTransform`.
        classes: their names, in the order of the logits.
        run: what it was made of.
        merged: whether the method's update has been folded into the weights.
    """

    def __init__(self, run: Run, model: Model, transform: Transform | SceneTransform, merged: bool) -> None:
        super().__init__()
        self.run, self.model, self.transform, self.merged = run, model, transform, merged
        self.classes = run.classes

    @torch.no_grad()
    def detect(self, image: Picture) -> dict[str, Tensor]:
        """What a tuned detector finds on an image: a file, a PIL image, or uint8 pixels (h, w) or (h, w, 3).

        The best come first.

        `boxes` (n, 4), x1 y1 x2 y2 in pixels of the upright image, `scores` (n,), `labels` (n,), indices of `classes`.

        Raises:
            UserError: the run is no detector's, or the image cannot be read.
        """
        if not isinstance(self.transform, SceneTransform):
            raise UserError(f"{self.run.folder}: is of task={self.run.config.task.name}; only a detector detects.")
        pixels, place = self.transform(image)
        device = next(self.parameters()).device
        given = [{name: t.to(device) for name, t in place.items()}]
        return {name: t.cpu() for name, t in self.model.evaluate((pixels[None].to(device), given))[0].items()}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of uint8 images (B, 3, S, S), or clips (B, T, 3, S, S); floating ones are normalised."""
        return self.model(images)


def load(
    run: str | Path | Run,
    *,
    merge: bool | Literal["dense", "masked"] = True,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> Tuned:
    """The tuned model of a run's folder, in eval mode, on the CPU.

        tuned = peftbench.load("outputs/lora-vit_s-photos-s0-0123456789")
        logits = tuned(tuned.transform("cat.jpg")[None])
        print(tuned.classes[logits.argmax()])

    Args:
        merge: fold the update into the weights, where the method can: as fast as the plain backbone. On a backbone
            pruned to zeros True does what the run's `pruning.merge` says; "dense" merges over the zeros, "masked" keeps
            them, where that does not change what the model computes.
        weights: where the backbone's weights lie, if they have moved since the run.
        adapter: a folder in which Hugging Face's PEFT has saved LoRA of linear layers; it takes the delta's place.
        config_dir: a folder with the YAML of a method of your own.

    Raises:
        UserError: no such run, an incomplete or damaged one, or weights that are not those it was trained from.
    """
    run = run if isinstance(run, Run) else open_run(run, config_dir)
    if weights is not None:
        run = dataclasses.replace(run, config=_moved(run.config, str(weights)))
    if adapter is not None:
        run = _adapted(run, Path(adapter).expanduser())
    with torch.random.fork_rng():
        backbone = build_backbone(run.config)
    model = run.model(backbone)
    if isinstance(merge, str):
        backbone.merging = _merging(run, backbone, merge)
    merges = bool(merge) and type(run.method).merge is not Method.merge and backbone.merging != "unmerged"
    if merges:
        run.method.merge(backbone)
        deltas.refresh(model)
    return Tuned(run, model.requires_grad_(False), transform_of(run.config, backbone), merges).eval()


def _merging(run: Run, backbone: backbones.Backbone, wanted: str) -> str:
    """How to merge, where the user says so. Raises Refusal where that would change what the model computes."""
    trained = backbone.merging
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


def _adapted(run: Run, folder: Path) -> Run:
    """The run with a PEFT adapter in the place of its method and delta."""
    stamp = run.record.stamps["backbone"]
    if stamp.get("pruning"):
        raise Refusal(
            f"adapter={folder}: PEFT's adapters are of timm's whole weights, and the backbone of {run.folder} was "
            f"pruned; give the folder of a run with pruning=none."
        )
    found = peft_adapter.read(
        folder, backbones.meta(run.config.backbone, starting_backbone.size(run.config)).classifiers
    )
    if found.fingerprint not in ("", stamp["fingerprint"]):
        raise Refusal(
            f"adapter={folder}: was made on a backbone with fingerprint {found.fingerprint[:12]}, and that of "
            f"{run.folder} has {stamp['fingerprint'][:12]}; give the folder of a run on the same weights."
        )
    method = LoRA(found.rank, found.alpha, found.dropout, found.layers)
    options = json.loads(json.dumps(dataclasses.asdict(method)))
    spec = config.Method("lora", "peftbench.methods.lora.LoRA", options)
    told = {**run.metadata, "method": "lora", "options": json.dumps(options), "plan": _hash(Plan())}
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, method=spec),
        method=method,
        plan=Plan(),
        tensors=found.tensors,
        metadata=told,
        source=folder / peft_adapter.WEIGHTS,
    )


def place(device: str = "auto") -> torch.device:
    """The device of that name; `auto` is a GPU where there is one. Raises UserError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        one = torch.zeros(1, device=device)
        one.item()  # the meta device takes tensors, and holds nothing
    except (RuntimeError, AssertionError):  # torch's own text is long, and lists what it could be built for
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(f"device={device}: torch has no such device here; expected {', '.join(here)}.") from None
    return one.device


def _moved(spec: Config, weights: str) -> Config:
    """With weights that lie elsewhere: those of the whole detector, where the run started from one."""
    if isinstance(spec.task, schema.Detection) and spec.task.weights is not None:
        return dataclasses.replace(spec, task=dataclasses.replace(spec.task, weights=weights))
    return dataclasses.replace(spec, backbone=dataclasses.replace(spec.backbone, weights=weights))
