"""The file of weights that a config names, looked for without torch."""

from __future__ import annotations

from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.regular_files import irregular


def existing_weights(source: str) -> Path | None:
    """The file that `backbone.weights` names; None where they come from the hub or a package.

    Raises:
        UserError: there is no such file.
    """
    if source == "hub" or source.startswith("package:"):
        return None
    path = Path(source).expanduser()
    if not path.is_file():
        problem = irregular(path) or "there is no such file"
        raise UserError(f"backbone.weights={path}: {problem}; give a .safetensors or .pth file, or 'hub'.")
    return path
