"""MATLAB's files (version 5), which SVHN and Oxford Flowers come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence


def read_variables(path: Path, *names: str) -> list[np.ndarray]:
    """The arrays of these names in a .mat file. Raises UserError where it is damaged or has no such array."""
    from scipy.io import loadmat

    try:
        arrays = loadmat(path, variable_names=names)
    except Exception as problem:  # scipy raises all sorts for what is not the format
        raise UserError(
            f"{path}: is no whole MATLAB 5 file ({first_sentence(problem)}); remove it and fetch it again."
        ) from None
    if missing := [n for n in names if n not in arrays]:
        raise UserError(f"{path}: holds no array '{missing[0]}'; expected {', '.join(names)}.")
    return [np.asarray(arrays[name]) for name in names]
