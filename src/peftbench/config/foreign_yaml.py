"""The user's own YAML, looked at before Hydra reads it: Hydra would follow aliases and levels without end."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from peftbench.common.config_files import CONFIGS, groups
from peftbench.common.errors import UserError
from peftbench.common.regular_files import text_in
from peftbench.common.yaml_text import refuse_nested_yaml


def refuse_endless_yaml(folders: Sequence[Path], overrides: Sequence[str]) -> None:
    """Raises UserError for a file in the user's folders of configs that no one could read to its end.

    Looked at are the groups that there are, and those that the overrides name: `--config-dir .` may be a large folder.
    """
    own = [folder for folder in folders if folder != CONFIGS]
    if not own:
        return
    named = {override.lstrip("+~").partition("=")[0].partition("@")[0].partition("/")[0] for override in overrides}
    for file in _files(own, {*groups([CONFIGS]), *named}):
        try:
            state = file.stat()
            _look(file, state.st_mtime_ns, state.st_size)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
            why = getattr(problem, "strerror", None) or str(problem).splitlines()[0]
            raise UserError(f"{file}: cannot be read as YAML ({why}).") from None


def _files(folders: Sequence[Path], names: set[str]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.glob("*.yaml"))
        for name in sorted(names):
            if name and "\0" not in name and (folder / name).is_dir():
                yield from sorted((folder / name).rglob("*.yaml"))


@functools.lru_cache(maxsize=1024)
def _look(file: Path, modified: int, size: int) -> None:
    """As the file was then."""
    refuse_nested_yaml(text_in(file))
