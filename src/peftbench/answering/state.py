"""What an answer has come to so far, as a file that is written whole after each step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import text_in

FILE = "auto.json"
SCHEMA = 1


@dataclass
class Tried:
    """A run that was tried.

    Attributes:
        step: of the search that it belongs to.
        backbone, method: by the names of their YAML files.
        words: what else sets it apart, as overrides.
        status: as its record's; `failed` where it could not begin.
        run: its id, which is the name of its folder.
        value: what its task is judged by, on validation images; None where there is none.
        loss: on validation images.
        parameters: of the method, head apart.
        images: validation images.
        seconds: that it took; of runs that trained together, its share.
        reason: why it is not complete.
        chosen: overrides of what the run chose by validation images, which the last training takes over.
        memory: bytes that its training took above what was there; None where that is not measured.
        at: seconds of the answer when it had ended.
        by_fold: its value by each fold; empty without folds. Then `run` is that of the first, and `seconds` of all.
    """

    step: str
    backbone: str
    method: str
    words: list[str]
    status: str
    run: str = ""
    value: float | None = None
    loss: float | None = None
    parameters: int | None = None
    images: int = 0
    seconds: float = 0.0
    reason: str | None = None
    chosen: list[str] = field(default_factory=list)
    memory: int | None = None
    at: float = 0.0
    by_fold: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As the user would write it."""
        return " ".join([f"method={self.method}", f"backbone={self.backbone}", *self.words])


@dataclass
class State:
    """All that an answer remembers.

    Attributes:
        data: the hash of the images and labels.
        minutes: that were asked for last.
        spent: seconds that all commands took.
        commands: how many there were.
        timed: backbone -> what was measured of it.
        tried: every run, in order.
        decisions: what was chosen and left out, a sentence each, with its step and time.
        tests: each run that was tested, with the seconds at which; a continued answer may have several.
        answer: what came of it; None until there is one.
        curve: the learning curve: `points` of (training images, share), `images` to which it is led on, and `band`
            there; None until there is one.
        folds: by so many runs each thing that was tried is judged; 1 for one set of validation images, 0 until chosen.
    """

    data: str
    minutes: float = 0.0
    spent: float = 0.0
    commands: int = 0
    timed: dict[str, dict[str, Any]] = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    curve: dict[str, Any] | None = None
    folds: int = 0
    schema: int = SCHEMA

    def write(self, folder: Path) -> None:
        """Writes `auto.json`, whole or not at all. Raises UserError."""
        path = folder / FILE
        with replacing(path, lambda why: f"{path}: could not be written ({why}).") as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_state(folder: Path) -> State | None:
    """What is remembered in a folder; None where nothing is. Raises UserError where the file is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = json_of(text_in(path))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"it is not of schema {SCHEMA}")
        content["tried"] = [Tried(**{**entry, "words": list(entry["words"])}) for entry in content["tried"]]
        state = State(**content)
        _refuse_odd_types(state)
    except (OSError, ValueError, TypeError, LookupError) as problem:
        raise UserError(
            f"{path}: is not what peftbench auto remembers ({problem}); remove it, or give force=true to begin anew."
        ) from None
    return state


_KINDS: dict[str, Any] = {
    "data": str,
    "minutes": (int, float),
    "spent": (int, float),
    "commands": int,
    "timed": dict,
    "tried": list,
    "decisions": list,
    "tests": list,
    "answer": (dict, type(None)),
    "curve": (dict, type(None)),
    "folds": int,
    "schema": int,
}


def _refuse_odd_types(state: State) -> None:
    for part in fields(state):
        if not isinstance(getattr(state, part.name), _KINDS[part.name]):
            raise ValueError(f"{part.name} is none")
    for one in state.tried:
        texts = (one.step, one.backbone, one.method, one.status, one.run, *one.words, *one.chosen)
        numbers = (one.value, one.loss, one.parameters, one.images, one.seconds, one.memory, one.at)
        if not all(isinstance(text, str) for text in texts) or "/" in one.run or one.run in (".", ".."):
            raise ValueError("a run's name is none")
        if not all(number is None or isinstance(number, int | float) for number in numbers):
            raise ValueError("a run's figure is none")
    if not all(isinstance(entry, dict) for entry in (*state.decisions, *state.tests, *state.timed.values())):
        raise ValueError("an entry is no mapping")
