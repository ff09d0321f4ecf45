"""A backbone pruned to a latency, made once: who asks for the same later reads its file, on whatever machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from peftbench import backbones, pruning
from peftbench.backbones.weights import pruned_description
from peftbench.common.amounts import milliseconds
from peftbench.common.errors import UserError
from peftbench.common.file_lock import releasing, take
from peftbench.common.status_line import doing
from peftbench.config import Backbone, Config
from peftbench.pruning.runtimes import refuse_missing_runtime
from peftbench.runs.pruning_images import digest_of, image_files, normalised

FOLDER = "backbones"
"""Where an output folder has its pruned backbones."""
MOST = 512
"""So many images recovery looks at."""


def place_of(backbone: backbones.Backbone, config: Config) -> Path:
    """Where the file of a pruned backbone lies."""
    name = f"{_stem(backbone.facts.name, config)}-{backbone.fingerprint[:10]}.safetensors"
    return Path(config.output_dir) / FOLDER / name


def _stem(name: str, config: Config) -> str:
    spec = config.pruning
    how = f"{spec.ratio:g}" if spec.latency is None else f"latency{spec.latency:g}"
    return f"{name}-{spec.name}-{how}"


def pruned_to_latency(
    backbone: backbones.Backbone,
    config: Config,
    source: Backbone,
    size: backbones.Size | None,
    tell: Callable[[str], None],
) -> backbones.Backbone:
    """The backbone pruned to the config's latency: that of the file of an earlier run, or a new one, which is kept.

    Args:
        backbone: whole, with its weights; it is used up.
        config: of the run.
        source, size: what `backbone` was built of, and for images of which size.
        tell: is given what the user should know.

    Raises:
        UserError: the images cannot be read, the runtime is not installed, or the file cannot be written.
        Refusal: as `pruning.prune_to_latency`.
    """
    spec = config.pruning
    pruning.refuse_unprunable(backbone, spec)
    files = image_files(spec.images, MOST)
    asked = _request(backbone, config, digest_of(files))
    folder = Path(config.output_dir) / FOLDER
    known = replace(source, pretrained=True)
    if (path := _found(folder, backbone.facts.name, config, asked)) is not None:
        return backbones.build_with_weights(replace(known, weights=str(path)), size)
    refuse_missing_runtime(spec.runtime)
    images = normalised(files, backbone)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take(folder / f".{asked[:16]}.lock", wait=True)
    except OSError as problem:
        raise UserError(f"output_dir={config.output_dir}: cannot be written ({problem.strerror}).") from None
    with releasing(lock):  # of several processes one prunes, and the others read what it made
        if (path := _found(folder, backbone.facts.name, config, asked)) is None:
            show = doing if config.trainer.progress else lambda what: None
            whole = backbone.facts.parameters
            pruned = pruning.prune_to_latency(backbone, spec, images, _device(config), show)
            pruned.pruned["request"] = asked
            path = place_of(pruned, config)
            pruning.save_pruned(pruned, path)
            latency = pruned.pruned["latency"]
            tell(
                f"pruning.target={spec.target}: {whole - pruned.facts.parameters:,} of the backbone's {whole:,} "
                f"parameters are taken out; one image takes {milliseconds(latency['seconds'])} in {spec.runtime}, "
                f"{latency['share']:.2f} of the whole one's {milliseconds(latency['whole'])}; {path} holds it"
            )
    return backbones.build_with_weights(replace(known, weights=str(path)), size)


def _request(backbone: backbones.Backbone, config: Config, images: str) -> str:
    """A hash of all that decides what comes out, but for how quick this machine is."""
    spec = config.pruning
    told = [spec.target, spec.runtime, spec.criterion, spec.round_to, spec.rounds, spec.recovery]
    whole = [backbone.fingerprint, backbone.facts.input_size]
    return hashlib.sha256(json.dumps([*whole, *told, images]).encode()).hexdigest()


def _found(folder: Path, name: str, config: Config, asked: str) -> Path | None:
    """The file of a backbone that was made for the same request; None where there is none that is whole."""
    for path in sorted(folder.glob(f"{_stem(name, config)}-*.safetensors")):
        try:
            about = pruned_description(str(path))
        except UserError:  # it is damaged, and is made anew
            continue
        if about.get("pruned", {}).get("request") == asked:
            return path
    return None


def _device(config: Config) -> torch.device:
    gpu = config.trainer.accelerator in ("auto", "gpu") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")
