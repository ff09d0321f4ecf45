"""What the user asked for, and the name of its folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config import Config, identity
from peftbench.results.choice import amount

MOST_MINUTES = 1e6


@dataclass(frozen=True)
class Asked:
    """The question.

    Attributes:
        words: overrides of every run: the data, the task, the seed, the trainer.
        minutes: of the whole answer, over all commands that it took.
        memory: bytes that a step and the weights may take.
        latency: seconds that a prediction for one image may take.
        parameters: of a method at most, head apart.
        backbones, methods: the only ones to try; empty: all that are known.
        force: whether an answer that is there is put aside.
        download: whether weights may be fetched from the hub.
        prior: whether earlier records may change the order.
        written: the limits as the user wrote them, such as `memory=8GB`; the command to go on has them.
    """

    words: tuple[str, ...]
    minutes: float
    memory: float = math.inf
    latency: float = math.inf
    parameters: float = math.inf
    backbones: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    force: bool = False
    download: bool = False
    prior: bool = True
    written: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        words: Sequence[str],
        minutes: float,
        limits: Mapping[str, str | None],
        force: bool = False,
        download: bool = False,
    ) -> Asked:
        """The question, its limits as text: `memory`, `max_latency`, `max_params`, `backbones`, `methods`, `prior`.

        Raises:
            UserError: a limit that is none.
        """
        return cls(
            words=tuple(words),
            minutes=minutes,
            memory=_amount(limits, "memory", _BYTES, "bytes, such as 8GB"),
            latency=_amount(limits, "max_latency", _SECONDS, "milliseconds, such as 20ms"),
            parameters=_amount(limits, "max_params", _COUNTS, "a count, such as 1M"),
            backbones=_listed(limits.get("backbones")),
            methods=_listed(limits.get("methods")),
            force=force,
            download=download,
            prior=_is_heard(limits.get("prior")),
            written=(
                *(f"{key}={text}" for key, text in limits.items() if text is not None),
                *(["download=true"] if download else []),
            ),
        )

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= MOST_MINUTES:
            raise UserError(f"minutes={self.minutes:g}: expected more than 0, such as minutes=30.")

    def id(self, config: Config) -> str:
        """The name of the answer's folder: a hash of all that is asked but the minutes, which may grow.

        Args:
            config: any run of it.
        """
        whole = identity(config)
        of_runs: dict[str, Any] = {key: whole.get(key) for key in ("data", "task", "seed", "trainer", "taps")}
        limits = [None if math.isinf(most) else most for most in (self.memory, self.latency, self.parameters)]
        parts = [of_runs, _place(config), limits, self.backbones, self.methods]
        stamp = json.dumps(parts if self.prior else [*parts, "prior=none"], sort_keys=True)
        return f"auto-{hashlib.sha256(stamp.encode()).hexdigest()[:10]}"


_BYTES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_SECONDS = {"": 1e-3, "ms": 1e-3, "s": 1}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def _amount(limits: Mapping[str, str | None], key: str, units: Mapping[str, float], expected: str) -> float:
    text = limits.get(key)
    return math.inf if text is None else amount(f"{key}={text}", text, units, expected)


def _listed(text: str | None) -> tuple[str, ...]:
    """The names of `[a,b]` or `a,b`."""
    if text is None:
        return ()
    names = tuple(name.strip(" '\"") for name in text.strip().strip("[]").split(","))
    if not all(names):
        raise UserError(f"{text}: expected names, such as [vit_nano,resnet_nano].")
    return names


def _is_heard(text: str | None) -> bool:
    if text not in (None, "records", "none"):
        raise UserError(f"prior={text}: expected records, the default, or none.")
    return text != "none"


def _place(config: Config) -> list[str]:
    """Where the data lie: two folders are two questions, whatever is in them."""
    root = config.data.options.get("root")
    if not isinstance(root, str) or root.startswith("package:"):
        return [str(root), config.data.name]
    return [str(Path(root).expanduser().absolute()), config.data.name]


_SET = (
    *("data.stage", "trainer.epochs", "trainer.minutes", "trainer.keep", "trainer.patience", "trainer.trial"),
    "trainer.head_from",
)
_SECTIONS = ("data", "task", "seed", "trainer", "taps", "costs", "output_dir", "data_dir", "hydra")


def refuse_words(words: Sequence[str]) -> None:
    """Refuses overrides of what `auto` chooses itself. Raises UserError."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key in _SET or key.partition(".")[0].partition("/")[0] not in _SECTIONS:
            hint = {"backbone": "; backbones=[…] says which to try", "method": "; methods=[…] says which to try"}
            raise UserError(
                f"auto {word}: is chosen by auto itself{hint.get(key.partition('.')[0], '')}; expected what the images "
                f"are, such as data=folder data.root=~/photos."
            )
    if not any(word.partition("=")[0] == "data" for word in words):
        raise UserError("auto: expected the images, such as peftbench auto data=folder data.root=~/photos minutes=30.")
