"""Every tracker gets the same figures: W&B offline, TensorBoard and MLflow read back; none of them ends a run."""

import csv
import glob
import warnings
from pathlib import Path

import pytest

from peftbench.common.errors import UserError
from peftbench.common.notes import Note
from peftbench.runs import loggers
from peftbench.runs.run import run
from peftbench.training import CHECKPOINT, Stopped
from support.runs import compose


def test_wandb_gets_the_same_figures_offline_and_is_closed(tmp_path, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for seed in (0, 1):
        record = run(compose(tmp_path, "method=linear", "logger=wandb", f"seed={seed}"), group="a-sweep")
        assert wandb.run is None
        assert glob.glob(f"{record.folder}/wandb/offline-run-*/run-{record.id}.wandb")


SEVERAL = ["method=linear", "data.stage=tune", "trainer.epochs=3"]


def _steps(history):
    return [int(row["step"]) for row in history]


def test_several_trackers_get_the_same_figures_and_a_resumed_run_doubles_no_step(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    mlflow = pytest.importorskip("mlflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = compose(tmp_path, *SEVERAL, "logger=[csv,tensorboard,mlflow]", "trainer.checkpoint_seconds=0")
    with monkeypatch.context() as patch:
        _end_after(patch, epochs=2)
        assert run(config, group="a-sweep").status == "interrupted"
    assert list(Path(config.output_dir).glob(f"*/{CHECKPOINT}")), "nothing to resume"
    record = run(config, group="a-sweep")
    folder = Path(record.folder)
    losses = [row["train_loss"] for row in record.history]
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [float(row["train_loss"]) for row in rows] == losses

    drawn = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=False).Reload()
    events = drawn.Scalars("train_loss")
    assert [event.step for event in events] == _steps(record.history)
    assert [event.value for event in events] == pytest.approx(losses)

    client = mlflow.MlflowClient(f"sqlite:///{config.output_dir}/mlflow.db")
    (tracked,) = client.search_runs([client.get_experiment_by_name("peftbench").experiment_id])
    points = client.get_metric_history(tracked.info.run_id, "train_loss")
    assert [(p.step, p.value) for p in points] == list(zip(_steps(record.history), losses, strict=True))
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == record.id
    assert tracked.data.params["method/name"] == "linear"
    assert tracked.data.tags["group"] == "a-sweep"
    assert tracked.data.tags["status"] == "complete"
    assert {k: tracked.data.metrics[k] for k in record.metrics} == pytest.approx(record.metrics)


def test_a_tracker_that_dies_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch):
    def gone(logger, history):
        raise ConnectionError("the server is gone. Try later.")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(loggers.WandbLogger, "epochs", gone)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        record = run(compose(tmp_path, *SEVERAL, "logger=[wandb,csv]"))
    wandb_module = pytest.importorskip("wandb")
    wandb_module.finish()
    told = [str(n.message) for n in notes if issubclass(n.category, Note) and "logger=wandb" in str(n.message)]
    assert len(told) == 1
    assert "the server is gone" in told[0]
    assert record.status == "complete"
    assert len(list(csv.DictReader((Path(record.folder) / "metrics.csv").open()))) == 3


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_tracker_whose_library_is_missing_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda library: None)
    with pytest.raises(UserError, match=rf"pip install 'peftbench\[{name}\]'"):
        run(compose(tmp_path, "method=linear", f"logger={name}"))


def test_a_store_that_cannot_be_opened_is_one_sentence(tmp_path):
    pytest.importorskip("mlflow")
    words = ["logger=mlflow", "logger.mlflow.tracking_uri=nowhere://x"]
    with pytest.raises(UserError, match=r"^logger=mlflow: MLflow did not start .*tracking_uri=null"):
        run(compose(tmp_path, "method=linear", *words))


def _end_after(patch, epochs):
    """Has the user end the run after so many epochs."""
    original = loggers.Several.epochs

    def stopping(logger, history):
        original(logger, history)
        if len(history) == epochs:
            raise Stopped("stopped by the user")

    patch.setattr(loggers.Several, "epochs", stopping)
