"""How far a sweep is: which job of how many, how long it takes still, and what came of each job.

Jobs may run in several processes, so that what is known of them lies in the sweep's folder: `sweep.json`, written when
it begins, and `done/<number>.json` for each job that ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.readable_names import readable
from peftbench.common.regular_files import text_in
from peftbench.results import Record, results_of_record
from peftbench.results.task_results import percent

_FILE, _DONE = "sweep.json", "done"


def begin(sweep: Path, words: Sequence[str], jobs: int | None = None) -> list[str]:
    """Notes how many jobs there are, and which keys differ between them; returns the words of the first.

    Args:
        sweep: its folder.
        words: the overrides of the sweep; of one key the last counts.
        jobs: how many, where the overrides do not say.
    """
    values: dict[str, list[str]] = {}  # empty where the overrides do not say them all
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
            key, varies = override.get_key_element(), override.is_sweep_override()
            values[key] = [word]
            if varies:
                listed = override.sweep_string_iterator() if override.is_discrete_sweep() else ()
                values[key] = [f"{key}={value}" for value in listed]
        except (HydraException, AttributeError, TypeError, ValueError):  # Hydra itself says what is wrong with it
            values[word.partition("=")[0]] = []
    if jobs is None and all(values.values()):
        jobs = math.prod(map(len, values.values()))
    _write(sweep / _FILE, {"jobs": jobs, "varied": [key for key, each in values.items() if len(each) != 1]})
    return [each[0] for each in values.values() if each]


def jobs_of(sweep: Path) -> int | None:
    """How many jobs a sweep has, where that is known."""
    return _read(sweep / _FILE).get("jobs")


def varied_keys(sweep: Path) -> list[str] | None:
    """The keys that differ between its jobs, where that is known."""
    return _read(sweep / _FILE).get("varied")


def place_of(sweep: Path, number: int) -> str:
    """`job 6 of 12`; `number` counts from 0."""
    jobs = jobs_of(sweep)
    return f"job {number + 1} of {jobs}" if jobs else f"job {number + 1}"


def note_end(sweep: Path, number: int, seconds: float, records: Sequence[Record]) -> None:
    """Notes that a job ended, and what it took; a job whose runs were all there already took nothing."""
    ran = any(record.id and not record.was_there for record in records)
    process = f"{socket.gethostname()}:{os.getpid()}"
    _write(sweep / _DONE / f"{number:05d}.json", {"seconds": seconds if ran else None, "process": process})


def was_told(sweep: Path, sentence: str) -> bool:
    """Whether a job of the sweep told this sentence; from now on, one did."""
    path = sweep / "told" / hashlib.sha256(readable(sentence).encode()).hexdigest()[:20]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("x").close()
    except FileExistsError:
        return True
    except OSError:  # told twice rather than never
        return False
    return False


def time_left(sweep: Path) -> str:
    """`about 4 min left`, by the mean of the jobs that ran, and as many at a time as did so; else an empty string."""
    jobs = jobs_of(sweep)
    ended = [_read(path) for path in (sweep / _DONE).glob("*.json")]
    took = [each["seconds"] for each in ended if each.get("seconds") is not None]
    if not jobs or not took or len(ended) >= jobs:
        return ""
    processes = len({each["process"] for each in ended if each.get("seconds") is not None})
    return f"about {_roughly((jobs - len(ended)) * sum(took) / len(took) / processes)} left"


def result(records: Sequence[Record]) -> str:
    """What came of a job, in a few words."""
    broken = next((r for r in records if r.status != "complete"), None)
    if broken is not None:
        return f"{broken.status}: {broken.reason or 'no reason is known'}"
    metric = results_of_record(records[0]).metric
    words = "was complete already" if all(r.was_there for r in records) else "done"
    for role in ("test", "val"):
        values = [r.metrics[f"{role}/{metric}"] for r in records if f"{role}/{metric}" in r.metrics]
        if values:
            several = f", mean of {len(values)} runs" if len(values) > 1 else ""
            return f"{words}, {role} {100 * sum(values) / len(values):.1f} {percent(metric)}{several}"
    return words


def _roughly(seconds: float) -> str:
    """`40 s`, `4 min`, `3.5 h`."""
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _write(path: Path, content: Any) -> None:
    with contextlib.suppress(OSError, UserError), replacing(path) as part:  # a sweep goes on without
        part.write_text(json.dumps(content), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(text_in(path))
        if isinstance(content, dict):
            return content
    return {}
