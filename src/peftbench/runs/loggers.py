"""Where figures go besides the record: any of a CSV file, W&B, TensorBoard and MLflow. Only this file knows them."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.json_text import json_of
from peftbench.common.notes import note
from peftbench.common.regular_files import text_in
from peftbench.config import Config
from peftbench.results import Record
from peftbench.training import Stopped

CSV = "metrics.csv"
TENSORBOARD = "tensorboard"
MLFLOW = "mlflow.json"


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


class Tracker(Logger):
    """A logger that others wrote and that may fail at any time: it is then told once and left, and the run goes on."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger

    def epochs(self, history: list[dict[str, float]]) -> None:
        self._attempt(lambda: self.logger.epochs(history))

    def finish(self, record: Record) -> None:
        self._attempt(lambda: self.logger.finish(record))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Stopped:
            raise
        except Exception as problem:  # network, servers and disks come as many classes
            self.logger = Logger()
            note(f"logger={self.name}: it failed ({first_sentence(problem)}) and gets no more figures; the run goes on")


class Several(Logger):
    """Several loggers at once; each gets all figures, whatever becomes of the others."""

    def __init__(self, loggers: list[Logger]) -> None:
        self.loggers = loggers

    def epochs(self, history: list[dict[str, float]]) -> None:
        for logger in self.loggers:
            logger.epochs(history)

    def finish(self, record: Record) -> None:
        for logger in self.loggers:
            logger.finish(record)


class WandbLogger(Logger):
    """A W&B run with the run's id; offline when there is no key. Closed in every case, so sweeps get one run each."""

    def __init__(self, config: Config, run_id: str, folder: Path, group: str | None) -> None:
        import wandb

        options = config.logger.wandb
        assert options is not None
        self.run = wandb.init(
            project=options.project,
            group=options.group or group,
            tags=list(options.tags),
            id=run_id,
            name=run_id,
            config=config.to_dict(),
            dir=str(folder),
            resume="allow",
            mode=os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True),
        )
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


class TensorBoardLogger(Logger):
    """Event files in the run's folder.

    A resumed run writes them anew: it hands on the rows of all epochs, and two files would show their steps twice.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        from lightning.pytorch.loggers import TensorBoardLogger as Events

        for earlier in (folder / TENSORBOARD).glob("events.out.tfevents.*"):
            earlier.unlink()
        self.events = Events(str(folder), name=TENSORBOARD, version="", default_hp_metric=False)
        self.config, self.sent = config, 0

    def epochs(self, history: list[dict[str, float]]) -> None:
        for row in history[self.sent :]:
            self.events.log_metrics(row, int(row["step"]))
        self.sent = len(history)
        self.events.experiment.flush()

    def finish(self, record: Record) -> None:
        try:
            settings = {key.removeprefix("/"): value for key, value in _flat(record.config, "").items()}
            self.events.log_hyperparams(settings, _numbers(record.metrics | _flat(record.costs, "cost")))
            outcome = {"status": record.status, "reason": record.reason, "stamps": record.stamps}
            self.events.experiment.add_text("record", f"```json\n{json.dumps(outcome, indent=2, default=str)}\n```")
        finally:
            self.events.finalize("success" if record.status == "complete" else "failed")


class MLflowLogger(Logger):
    """An MLflow run, whose id is kept in the run's folder so that a resumed run continues it."""

    STATUS = {"complete": "FINISHED", "interrupted": "KILLED"}

    def __init__(self, config: Config, run_id: str, folder: Path, group: str | None) -> None:
        import mlflow.store.db.utils  # noqa: F401  (before: its import sets the levels of its loggers)
        from lightning.pytorch.loggers import MLFlowLogger as Run

        # They tell of tables that they make, and of every attempt to reach a server.
        for library in ("alembic", "mlflow", "lightning.pytorch.loggers.mlflow", "urllib3.connectionpool"):
            logging.getLogger(library).setLevel(logging.ERROR)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else a server that is gone costs minutes
        options = config.logger.mlflow
        assert options is not None
        store = Path(config.output_dir).absolute()
        address = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        local = None if address else (store / "mlartifacts").as_uri()
        address = address or f"sqlite:///{(store / 'mlflow.db').as_posix()}"
        place = {"tracking_uri": address, "experiment": options.experiment}
        path = folder / MLFLOW
        earlier = _kept(path)
        known = earlier.get("run_id") if place.items() <= earlier.items() else None

        def opened(known: str | None) -> Run:
            return Run(
                experiment_name=options.experiment,
                run_name=run_id,
                tracking_uri=address,
                tags={"group": group} if group else None,
                artifact_location=local,
                run_id=known,
            )

        self.run = opened(known)
        if known and not self._is_there():
            self.run = opened(None)
        client = self.run.experiment  # starts the run, or finds it
        self.last = int(client.get_run(self.run.run_id).data.metrics.get("step", -1))
        if self.run.run_id == known:
            client.update_run(known, status="RUNNING")
        else:
            settings = {key.removeprefix("/"): value for key, value in _flat(config.to_dict(), "").items()}
            self.run.log_hyperparams(settings)
            with replacing(path) as part:
                part.write_text(json.dumps(place | {"run_id": self.run.run_id}), encoding="utf-8")

    def _is_there(self) -> bool:
        """Whether the store still has the run that the folder names."""
        from mlflow.exceptions import MlflowException

        try:
            return self.run.experiment.get_run(self.run.run_id).info.lifecycle_stage == "active"
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def epochs(self, history: list[dict[str, float]]) -> None:
        for row in history:
            if (step := int(row["step"])) > self.last:
                self.run.log_metrics(_numbers(row), step)
                self.last = step

    def finish(self, record: Record) -> None:
        try:
            figures = _numbers(record.metrics | _flat(record.costs, "cost"))
            if figures:
                self.run.log_metrics(figures, max(self.last, 0))
            outcome = {"status": record.status, "reason": record.reason or "", **_flat(record.stamps, "stamp")}
            for key, value in outcome.items():
                self.run.experiment.set_tag(self.run.run_id, key, str(value)[:5000])
        finally:
            self.run.finalize(self.STATUS.get(record.status, "FAILED"))


def make_logger(config: Config, run_id: str, folder: Path, group: str | None) -> Logger:
    """The configured loggers as one. Raises UserError where one cannot start; those before it are then closed."""
    chosen = config.logger
    makers: dict[str, Callable[[], Logger]] = {}
    if chosen.csv is not None:
        makers["csv"] = lambda: CsvLogger(folder)
    if chosen.wandb is not None:
        makers["wandb"] = lambda: WandbLogger(config, run_id, folder, group)
    if chosen.tensorboard is not None:
        makers["tensorboard"] = lambda: TensorBoardLogger(config, folder)
    if chosen.mlflow is not None:
        makers["mlflow"] = lambda: MLflowLogger(config, run_id, folder, group)
    started: list[Logger] = []
    try:
        for name, make in makers.items():
            started.append(make() if name == "csv" else Tracker(name, _started(name, make)))
    except BaseException as problem:
        Several(started).finish(Record(run_id, "failed", config.to_dict(), reason=first_sentence(problem)))
        raise
    return Several(started)


_EXTRAS = ("tensorboard", "mlflow")
_WITHOUT_SERVER = {
    "wandb": "W&B did not start ({}); WANDB_MODE=offline needs no server",
    "tensorboard": "TensorBoard did not start ({}); leave it out, or see what is wrong with the run's folder",
    "mlflow": "MLflow did not start ({}); logger.mlflow.tracking_uri=null without $MLFLOW_TRACKING_URI needs no server",
}


def _started(name: str, make: Callable[[], Logger]) -> Logger:
    """The tracker. Raises UserError where its library is not installed, or it does not start."""
    if name in _EXTRAS and find_spec(name) is None:
        raise UserError(f"logger={name}: needs {name}, which is not installed; pip install 'peftbench[{name}]'.")
    try:
        return make()
    except Stopped:
        raise
    except Exception as problem:  # network, keys and settings come as many classes
        raise UserError(f"logger={name}: {_WITHOUT_SERVER[name].format(first_sentence(problem))}.") from None


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(errors="replace")


def _kept(path: Path) -> Mapping[str, Any]:
    """What the folder says of its MLflow run; nothing where it has none, or a damaged file."""
    try:
        values = json_of(text_in(path))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) and isinstance(values.get("run_id"), str) else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that a tracker can draw."""
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _flat(values: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {k: v for name, value in values.items() for k, v in _flat(value, f"{prefix}/{name}").items()}
