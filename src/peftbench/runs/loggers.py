"""Where figures go besides the record: a CSV file, or W&B. Only this file knows wandb."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.config import Config
from peftbench.results import Record

CSV = "metrics.csv"


class Logger:
    """The logger that logs nothing (the record is always written), and the interface of the others."""

    def epochs(self, history: list[dict[str, float]]) -> None:
        """Called after every epoch with all rows so far."""

    def finish(self, record: Record) -> None:
        """Called once, however the run ended."""


class CsvLogger(Logger):
    """`metrics.csv` in the run's folder, one row an epoch; a resumed run continues it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CSV

    def epochs(self, history: list[dict[str, float]]) -> None:
        with replacing(self.path) as part, part.open("w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, fieldnames=list(dict.fromkeys(k for row in history for k in row)))
            rows.writeheader()
            rows.writerows(history)


class WandbLogger(Logger):
    """A W&B run with the run's id; offline when there is no key. Closed in every case, so sweeps get one run each."""

    def __init__(self, config: Config, run_id: str, folder: Path, group: str | None) -> None:
        import wandb

        try:
            self.run = wandb.init(
                project=config.logger.project,
                group=config.logger.group or group,
                tags=list(config.logger.tags),
                id=run_id,
                name=run_id,
                config=config.to_dict(),
                dir=str(folder),
                resume="allow",
                mode=os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline"),  # type: ignore[arg-type]
                settings=wandb.Settings(silent=True),
            )
        except Exception as problem:  # network, keys and settings come as many classes
            raise UserError(
                f"logger=wandb: W&B did not start ({first_sentence(problem)}); WANDB_MODE=offline needs no server."
            ) from None
        self.sent = 0

    def epochs(self, history: list[dict[str, float]]) -> None:
        for row in history[self.sent :]:
            self.run.log(row, step=int(row["step"]))
        self.sent = len(history)

    def finish(self, record: Record) -> None:
        try:
            outcome = {"status": record.status, "reason": record.reason, **record.metrics}
            self.run.summary.update(outcome | _flat(record.costs, "cost") | _flat(record.stamps, "stamp"))
        finally:
            self.run.finish(exit_code=0 if record.status == "complete" else 1)


def make_logger(config: Config, run_id: str, folder: Path, group: str | None) -> Logger:
    """The configured logger. Raises UserError where W&B cannot start."""
    if config.logger.name == "csv":
        return CsvLogger(folder)
    if config.logger.name == "wandb":
        return WandbLogger(config, run_id, folder, group)
    return Logger()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(errors="replace")


def _flat(values: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {k: v for name, value in values.items() for k, v in _flat(value, f"{prefix}/{name}").items()}
