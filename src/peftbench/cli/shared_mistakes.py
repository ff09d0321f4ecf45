"""A mistake of the data or the weights that jobs of a sweep share: the first job meets it, and the others do not try.

What is known lies in the sweep's folder, since jobs may run in several processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peftbench.cli.sweep_progress import varied_keys
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import Refusal, UserError
from peftbench.common.regular_files import text_in
from peftbench.config import Config
from peftbench.results import Record

_FOLDER = "mistakes"
# Which keys of a sweep choose what its jobs need.
_CHOSEN_BY = {
    "data": ("data", "data_dir", "experiment", "debug"),
    "weights": ("backbone", "task", "data", "experiment", "debug"),
}


def remember(sweep: Path, mistake: UserError, config: Config) -> None:
    """Keeps a mistake of what a job needs, for those that need the same."""
    if not mistake.of:
        return
    path = sweep / _FOLDER / f"{key_of(mistake.of, config)}.json"
    content = {"sentence": str(mistake), "refusal": isinstance(mistake, Refusal), "all": is_of_all(sweep, mistake.of)}
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(content), encoding="utf-8")


def known(sweep: Path, config: Config) -> UserError | None:
    """The mistake that a job of this config would meet, where another one met it."""
    for needed in _CHOSEN_BY:
        for content in _read(sweep / _FOLDER / f"{key_of(needed, config)}.json"):
            return (Refusal if content["refusal"] else UserError)(content["sentence"])
    return None


def of_all_jobs(sweep: Path) -> UserError | None:
    """A mistake that no job of the sweep can escape, where one met it."""
    for path in sorted((sweep / _FOLDER).glob("*.json")):
        for content in _read(path):
            if content["all"]:
                return (Refusal if content["refusal"] else UserError)(content["sentence"])
    return None


def told_together(records: Sequence[Record], sweep: Path | None) -> dict[str, list[Record]]:
    """Sentence -> the records of several jobs that it is of: a mistake that they share, or that all of them made."""
    if sweep is None:
        return {}
    shared = {content["sentence"] for path in (sweep / _FOLDER).glob("*.json") for content in _read(path)}
    counts = Counter(record.reason for record in records if record.status != "complete")
    told = {why: [r for r in records if r.reason == why] for why, count in counts.items() if why and count > 1}
    return {why: them for why, them in told.items() if why in shared or len(them) == len(records)}


def is_of_all(sweep: Path, needed: str) -> bool:
    """Whether all jobs of a sweep need the same `data`, or `weights`, as far as the keys tell that differ."""
    varied = varied_keys(sweep)
    return varied is not None and not any(key.lstrip("+").partition(".")[0] in _CHOSEN_BY[needed] for key in varied)


def key_of(needed: str, config: Config) -> str:
    """A hash of what a run needs."""
    sections = config.to_dict()
    if needed == "data":
        need: Any = [sections["data"], sections["data_dir"], config.trainer.trial]
    else:
        need = [sections["backbone"], sections["task"], sections["data"]["size"]]
        need += [] if config.backbone.pretrained else [config.seed]
    return f"{needed}-{hashlib.sha256(json.dumps(need, sort_keys=True).encode()).hexdigest()[:20]}"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """What was kept, if it was."""
    with contextlib.suppress(OSError, ValueError):
        yield json.loads(text_in(path))
