"""Whether a run can go on from the checkpoint in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what weights_only raises

import torch

from peftbench.common.errors import UserError
from peftbench.training.checkpoint import FILE
from peftbench.training.module import Fit

KEPT = {"id", "place", "history", "elapsed", "sessions", "measured", "train_loss"}


def lacks_validation(path: Path) -> bool:
    """Whether a sound checkpoint was written in the midst of its epoch's validation."""
    kept = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["peftbench"]
    return bool(kept.get("unvalidated", False))


def resumable(folder: Path, module: Fit) -> Path | None:
    """The checkpoint to resume from, None where there is none.

    Raises:
        UserError: it is damaged, holds Python objects, or belongs to another run or model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    advice = "remove it, or give force=true, to start again"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        if path.read_bytes()[:1] not in (b"P", b"\x80"):  # a zip archive, a pickle
            raise UserError(f"{path}: is damaged (it is no torch file); {advice}.") from None
        raise UserError(f"{path}: holds Python objects besides tensors and is not loaded; {advice}.") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as problem:
        raise UserError(
            f"{path}: is damaged ({(str(problem) or type(problem).__name__).splitlines()[0]}); {advice}."
        ) from None
    kept = checkpoint.get("peftbench") if isinstance(checkpoint, Mapping) else None
    state = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if (
        not isinstance(kept, Mapping)
        or not set(kept) >= KEPT
        or not isinstance(state, Mapping)
        or not all(isinstance(t, torch.Tensor) for t in state.values())
    ):
        raise UserError(f"{path}: is not a checkpoint of peftbench; {advice}.")
    if kept["id"] != module.run_id:
        raise UserError(f"{path}: belongs to run {kept['id']}, not to {module.run_id}; {advice}.")
    ours = module.state_dict()
    for name, tensor in state.items():
        if name not in ours or ours[name].shape != tensor.shape:
            raise UserError(f"{path}: {name} {list(tensor.shape)} does not fit this model; {advice}.")
    return path
