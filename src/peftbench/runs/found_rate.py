"""The learning rate that a run looks for once (`optimizer.find_lr`): a file that a resumed run reads."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import content_of
from peftbench.config import Config
from peftbench.data.loading import Loaders
from peftbench.methods.base import Method
from peftbench.models.model import Model
from peftbench.runs.context import Context
from peftbench.runs.plan_file import await_file
from peftbench.training import device_of_process
from peftbench.training.rate_search import FoundRate, find_rate

FILE = "found_lr.json"
_ANEW = "give the folder as it was left, or run anew with force=true, which keeps what is there beside it"


@dataclass(frozen=True)
class Rate:
    """What was found, and the seconds that it took."""

    found: FoundRate
    seconds: float

    def of(self, config: Config) -> Config:
        """The config at this rate."""
        return replace(config, optimizer=replace(config.optimizer, lr=self.found.rate))

    def stamp(self) -> dict[str, Any]:
        """What the record says of it."""
        found = self.found
        return {"lr": found.rate, "tried": [found.rates[0], found.rates[-1]], "losses": found.losses}

    def costs(self) -> dict[str, Any]:
        """What it took."""
        return {"seconds": self.seconds, "steps": len(self.found.losses)}


def found_rate(context: Context, method: Method, model: Model, batches: Loaders, run_id: str, folder: Path) -> Rate:
    """The rate that a file in the folder has; the first process writes it where it is not there.

    Raises:
        UserError: no rate lowers the loss; the file is damaged, or of another run.
    """
    file = folder / FILE
    if file.is_file():
        return _read(file, run_id)
    if not context.first:
        await_file(file)
        return _read(file, run_id)
    place = device_of_process(context.config.trainer)
    begun = time.perf_counter()
    with context.progress("looking for the learning rate") as watch:
        found = find_rate(model, method, context.config, batches, place, watch)
    rate = Rate(found, time.perf_counter() - begun)
    with replacing(file) as part:
        part.write_text(json.dumps({"run": run_id, **asdict(rate)}), encoding="utf-8")
    more = f" (the loss may fall faster at {found.at_end} ones: give such an optimizer.lr)" if found.at_end else ""
    context.tell(
        f"optimizer.find_lr: {found.rate:g}; of rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g} it is where "
        f"the loss falls most steeply{more}"
    )
    return rate


def _read(file: Path, run_id: str) -> Rate:
    try:
        facts = json_of(content_of(file))
        rate = Rate(FoundRate(**facts["found"]), float(facts["seconds"]))
        if facts["run"] != run_id:
            raise UserError(f"{file}: is of run {facts['run']}, not of {run_id}; {_ANEW}.")
        sound = isinstance(rate.found.rate, float) and 0 < rate.found.rate < math.inf and rate.found.losses
        if not sound or len(rate.found.losses) != len(rate.found.rates):
            raise ValueError
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"{file}: is damaged; it was written when the run looked for its learning rate; {_ANEW}."
        ) from None
    return rate
