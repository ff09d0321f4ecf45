"""Hydra's own flags, which training takes beside key=value: the one table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftbench.common.errors import UserError, nearest
from peftbench.common.home import with_home


@dataclass(frozen=True)
class HydraOption:
    """A flag of Hydra's.

    Attributes:
        name: with its dashes.
        short: its short form, if it has one.
        takes_value: whether the next word is its value.
        is_mode: whether it says what Hydra does; only one of these can be given.
        shows: whether it makes sense alone: it shows something, or says all of what is run.
        values: what its value may be, for completion.
    """

    name: str
    short: str = ""
    takes_value: bool = False
    is_mode: bool = False
    shows: bool = False
    values: tuple[str, ...] = ()


HYDRA_OPTIONS = (
    HydraOption("--multirun", "-m", is_mode=True),
    HydraOption("--run", "-r", is_mode=True),
    HydraOption("--cfg", "-c", takes_value=True, is_mode=True, shows=True, values=("job", "hydra", "all")),
    HydraOption(
        "--info",
        "-i",
        takes_value=True,
        is_mode=True,
        shows=True,
        values=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    ),
    HydraOption("--shell-completion", "-sc", takes_value=True, is_mode=True, shows=True),
    HydraOption("--config-dir", "-cd", takes_value=True),
    HydraOption("--config-path", "-cp", takes_value=True),
    HydraOption("--config-name", "-cn", takes_value=True),
    HydraOption("--package", "-p", takes_value=True),
    HydraOption("--experimental-rerun", takes_value=True, shows=True),
    HydraOption("--resolve"),
    HydraOption("--hydra-help", shows=True),
    HydraOption("--help", "-h", shows=True),
    HydraOption("--version", shows=True),
)
_FOLDER_OPTIONS = ("--config-dir", "-cd", "--config-path", "-cp")
_BY_WORD = {word: option for option in HYDRA_OPTIONS for word in (option.name, option.short) if word}


def hydra_option(word: str) -> HydraOption | None:
    """The option that a word such as `-m` or `--config-dir=DIR` is, if any."""
    return _BY_WORD.get(word.partition("=")[0])


def is_value(words: Sequence[str], position: int) -> bool:
    """Whether the word at a position is the value of the option before it, as `job` in `--cfg job`."""
    before = _BY_WORD.get(words[position - 1]) if position else None
    return before is not None and before.takes_value


def separate(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options with their values, and the overrides: argparse takes overrides in one piece only.

    Raises:
        UserError: an option that is not there, or two of which each asks for something else.
    """
    options: list[str] = []
    overrides: list[str] = []
    modes: dict[str, list[str]] = {}
    for position, word in enumerate(words):
        option = hydra_option(word)
        if option is not None and "=" in word and not option.takes_value:
            raise UserError(f"{word}: {option.name} takes no value; give {word.partition('=')[0]}.")
        if is_value(words, position):
            if not word.startswith("-"):  # after a bare --info
                _refuse_value(words[position - 1], word)
            of_folder = words[position - 1] in _FOLDER_OPTIONS
            options.append(with_home(word, f"{words[position - 1]} {word}") if of_folder else word)
        elif word.startswith("-"):
            option = hydra_option(word)
            if option is None:
                raise _unknown(word)
            if option.is_mode:
                modes.setdefault(option.name, []).append(word.partition("=")[0])
            name, sign, value = word.partition("=")
            if sign:
                _refuse_value(name, value)
            elif option.takes_value and position + 1 == len(words) and option.name != "--info":  # which shows all then
                raise UserError(f"{word}: needs a value; see peftbench --help.")
            options.append(f"{name}={with_home(value, word)}" if sign and name in _FOLDER_OPTIONS else word)
        else:
            overrides.append(word)
    if len(modes) > 1:
        asked = " ".join(word for same in modes.values() for word in same)
        raise UserError(f"{asked}: each asks for something else; give one of them.")
    return options, overrides


def _refuse_value(name: str, value: str) -> None:
    """Refuses what an option cannot be, in a sentence and not in argparse's lines. Raises UserError."""
    values = _BY_WORD[name].values
    if values and value not in values:
        raise UserError(f"{name} {value}: expected {', '.join(values[:-1])} or {values[-1]}{nearest(value, values)}.")


def _unknown(word: str) -> UserError:
    name, sign, value = word.partition("=")
    hint = nearest(name, [option.name for option in HYDRA_OPTIONS])
    if name.startswith("--"):
        from peftbench.config.near_keys import undashed_key

        if key := undashed_key(name, guess=not hint):
            return UserError(f"{word}: a run takes its keys without dashes; give {key}={value if sign else '…'}.")
    return UserError(f"{name}: there is no such option{hint}; see peftbench --help.")
