"""The YAML files that a config is composed of: where they lie, and what each config group offers; without pydantic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.home import with_home
from peftbench.common.regular_files import open_text, text_in


def find_configs(package: Path) -> Path:
    """The folder of peftbench's own YAML files: `configs` in the package.

    In the repository that is a link to the folder beside `src`. Git for Windows may check a link out as a text file
    with the link's target in it, which is then followed.
    """
    place = package / "configs"
    if place.is_file():
        return (package / text_in(place).strip()).resolve()
    return place


CONFIGS = find_configs(Path(__file__).parents[1])
PLURAL = {"methods": "method", "backbones": "backbone", "data": "data"}


def roots(arguments: Sequence[str] = ()) -> list[Path]:
    """The folders that configs are read from: peftbench's own and those that the arguments add. Raises UserError."""
    folders = [CONFIGS]
    for i, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and i + 1 < len(arguments):
            folders.append(Path(arguments[i + 1]))
        elif argument.startswith("--config-dir="):
            folders.append(Path(argument.partition("=")[2]))
        elif argument.startswith("hydra.searchpath="):
            places = argument.partition("=")[2].strip("[]'\"").split(",")
            folders += [Path(p.strip(" '\"").removeprefix("file://")) for p in places if "pkg://" not in p]
    folders = [Path(with_home(str(folder), str(folder))) for folder in folders]
    if missing := next((folder for folder in folders if not folder.is_dir()), None):
        raise UserError(f"{missing}: there is no such folder of configs.")
    return folders


def search_path(folder: str | Path | None) -> list[str]:
    """--config-dir DIR as an override, which is all that composing takes; nothing without one. Raises UserError."""
    if folder is None:
        return []
    (_, path) = roots([f"--config-dir={folder}"])
    return [f'hydra.searchpath=["file://{path.absolute().as_posix()}"]']


def names(group: str, folders: Iterable[Path]) -> dict[str, Path]:
    """The choices of a group, nested ones with their folder (`vtab/cifar`), by name."""
    choices: dict[str, Path] = {}
    for folder in folders:
        base = folder / group
        for path in sorted(base.rglob("*.yaml")):
            name = path.relative_to(base).with_suffix("").as_posix()
            if not path.name.startswith("_"):
                choices.setdefault(name, path)
    return dict(sorted(choices.items(), key=lambda item: ("/" in item[0], item[0])))


def groups(folders: Iterable[Path]) -> list[str]:
    """The config groups: the folders beside train.yaml, and those that the user's folders add."""
    return sorted({p.name for f in folders for p in f.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))})


def describe(path: Path) -> str:
    """The first comment of a YAML file that is not a package header."""
    with open_text(path) as lines:
        for line in lines:
            if line.startswith("#") and not line.startswith("# @package"):
                return line.lstrip("# ").strip()
            if not line.startswith("#"):
                break
    return ""


def elsewhere(path: Path) -> list[str]:
    """What other tools call the choice that a YAML file is: the words of its comment `# elsewhere: …`."""
    mark = "# elsewhere:"
    with open_text(path) as lines:
        return [word.strip() for line in lines if line.startswith(mark) for word in line[len(mark) :].split(",")]
