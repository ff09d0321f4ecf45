"""W&B gets the same figures, offline."""

import glob

from peftbench.runs.run import run
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
