"""LoRA of linear layers, rsLoRA and DoRA, in the files of Hugging Face's PEFT.

These are adapter_model.safetensors and adapter_config.json.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import Refusal, UserError
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import text_in
from peftbench.common.sealed_file import read_tensors, write_tensors
from peftbench.methods.shared.peft_adapters import AdapterForm

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILES = (WEIGHTS, CONFIG, "README.md")
_PREFIX = "base_model.model."
_OURS = re.compile(r"backbone\.net\.(.+)\.(lora_a|lora_b|lora_magnitude)")
_THEIRS = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?)")
_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "lora_magnitude": "lora_magnitude_vector"}
"""What each part of an update is called, by its name here."""
# What changes the update's form or size, with the value that leaves it as LoRA's, rsLoRA's and DoRA's papers have it.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "lora_bias": (False,),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "alora_invocation_tokens": (None,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # others change the weights of the model too
}
_CONVERTED = (
    ", as which PEFT saves it where save_pretrained is given path_initial_model_for_weight_conversion, since it has "
    "changed the model's own weights"
)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, as PEFT's files describe it, with tensors as peftbench names them.

    Attributes:
        layers: the names of the adapted layers in the timm model.
        form: its options.
        tensors: a delta's: `backbone.net.<layer>.lora_a` (r, d_in), `backbone.net.<layer>.lora_b` (d_out, r), of DoRA
            `backbone.net.<layer>.lora_magnitude` (d_out,), and the head.
        fingerprint: the backbone's, where peftbench wrote the adapter; else empty.
    """

    layers: tuple[str, ...]
    form: AdapterForm
    tensors: Mapping[str, Tensor]
    fingerprint: str


def write_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    form: AdapterForm,
    base: str,
    classifiers: tuple[str, ...],
    metadata: Mapping[str, str],
) -> None:
    """Writes a delta of `method=lora` as an adapter of timm's model with a classifier of as many classes.

    Args:
        folder: where the files go.
        tensors: the delta.
        form: its options.
        base: the timm model's name.
        classifiers: the names of its classifier layers; each gets the head.
        metadata: what the file of weights says besides.

    Raises:
        Refusal: the delta holds more than low-rank updates of linear layers and a head.
        UserError: the disk is full, or the folder cannot be written.
    """
    adapter_tensors: dict[str, Tensor] = {}
    layers: dict[str, None] = {}
    for name, tensor in tensors.items():
        if match := _OURS.fullmatch(name):
            layers[match[1]] = None
            adapter_tensors[f"{_PREFIX}{match[1]}.{_PARTS[match[2]]}"] = tensor
        elif name.startswith("task.head."):
            adapter_tensors |= {f"{_PREFIX}{c}.{name.rpartition('.')[2]}": tensor for c in classifiers}
        else:
            raise Refusal(f"format=peft: the delta holds {name}, which is no low-rank update of a linear layer.")
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": form.rank,
        "lora_alpha": form.alpha,
        "lora_dropout": form.dropout,
        "target_modules": list(layers),
        "modules_to_save": list(classifiers),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": form.rslora,
        "use_dora": form.dora,
        "inference_mode": True,
    }
    write_tensors(folder / WEIGHTS, adapter_tensors, {**metadata, "format": "pt"})
    with replacing(folder / CONFIG) as part:
        part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_adapter(folder: Path, classifiers: tuple[str, ...]) -> Adapter:
    """An adapter that PEFT, or `write_adapter`, has saved.

    Raises:
        UserError: it is missing or damaged.
        Refusal: it holds something besides LoRA, rsLoRA or DoRA of linear layers and a classifier.
    """
    file = folder / CONFIG
    try:
        settings = dict(json_of(text_in(file)))
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
        dropout = float(settings.get("lora_dropout", 0.0))
        if not (math.isfinite(alpha) and 0 <= dropout < 1):
            raise ValueError
        form = AdapterForm(rank, alpha, dropout, bool(settings.get("use_rslora")), bool(settings.get("use_dora")))
    except FileNotFoundError:
        raise UserError(
            f"adapter={folder}: holds no {CONFIG}; give a folder that PEFT has saved an adapter in."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file}: is not the configuration of a LoRA adapter.") from None
    for key, plain in _PLAIN.items():
        if settings.get(key) and settings[key] not in plain:
            how = _CONVERTED if key == "init_lora_weights" else ""
            raise Refusal(f"{file}: {key}={settings[key]!r} is not read; expected plain LoRA, {key}={plain[0]!r}{how}.")
    if not (folder / WEIGHTS).is_file():
        raise _no_weights(folder)
    stored, about = read_tensors(folder / WEIGHTS)
    tensors = {n: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for n, t in stored.items()}  # exact
    if broken := [n for n, t in tensors.items() if not t.isfinite().all()]:
        raise UserError(f"{folder / WEIGHTS}: {broken[0]} holds values that are not finite; train it again.")
    layers: dict[str, None] = {}
    delta_tensors: dict[str, Tensor] = {}
    heads: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(_PREFIX)
        layer, _, part = short.rpartition(".")
        if (match := _THEIRS.fullmatch(short)) and tensor.ndim == (1 if "magnitude" in match[2] else 2):
            layers[match[1]] = None
            ours = next(ours for ours, theirs in _PARTS.items() if match[2].startswith(theirs))
            delta_tensors[f"backbone.net.{match[1]}.{ours}"] = tensor
        elif layer in classifiers and part in ("weight", "bias"):
            heads.setdefault(part, []).append(tensor.flatten(1) if part == "weight" else tensor)
        else:
            raise Refusal(f"{folder / WEIGHTS}: {name} is neither LoRA of a linear layer nor the classifier; not read.")
    # timm averages the logits of two classifiers.
    delta_tensors |= {f"task.head.{p}": t[0] if len(t) == 1 else sum(t[1:], t[0]) / len(t) for p, t in heads.items()}
    return Adapter(tuple(layers), form, delta_tensors, about.get("fingerprint", ""))


def _no_weights(folder: Path) -> UserError:
    pickled = next((n for n in ("adapter_model.bin", "adapter_model.pt") if (folder / n).is_file()), None)
    if pickled is None:
        return UserError(
            f"adapter={folder}: holds no {WEIGHTS}; give a folder that PEFT has saved an adapter in, whole."
        )
    return UserError(
        f"adapter={folder}: holds its weights in {pickled}, a pickle, which could run code; expected {WEIGHTS}, which "
        f"peft.PeftModel.from_pretrained(net, folder).save_pretrained(another) writes."
    )
