"""Where the YAML files lie."""

from __future__ import annotations

from pathlib import Path


def find_configs(package: Path) -> Path:
    """The folder of peftbench's own YAML files: `configs` in the package.

    In the repository that is a link to the folder beside `src`. Git for Windows may check a link out as a text file
    with the link's target in it, which is then followed.
    """
    place = package / "configs"
    if place.is_file():
        return (package / place.read_text(encoding="utf-8").strip()).resolve()
    return place


CONFIGS = find_configs(Path(__file__).parents[1])
