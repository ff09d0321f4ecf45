"""Several runs of a side method trained in one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from peftbench import optim
from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.costs import SavedBytes
from peftbench.methods.base import Method
from peftbench.models.joint import JointModel
from peftbench.tasks.base import Metrics
from peftbench.training.loss_watch import ADVICE, Diverged
from peftbench.training.module import Fit, finite
from peftbench.training.rate_factors import rate_factors


class JointFit(Fit):
    """Trains K runs at once, each with its own optimizer settings; what is K-fold here is one thing in `Fit`.

    A run whose loss or weights become NaN is noted in `failed` and left out of the sum that is differentiated; the
    others go on. `history` is of the mean, for the progress bar; `histories` has each run's own.
    """

    model: JointModel

    def __init__(self, model: JointModel, methods: Sequence[Method], configs: Sequence[Config], run_id: str) -> None:
        super().__init__(model, methods[0], configs[0], {}, run_id)
        self.methods, self.configs = list(methods), list(configs)
        self.saved = SavedBytes(model)
        self.val_each = nn.ModuleList([m.task.metrics() for m in model.models])
        self.test_each = nn.ModuleList([m.task.metrics() for m in model.models])
        self.histories: list[list[dict[str, float]]] = [[] for _ in configs]
        self.failed: list[str] = ["" for _ in configs]
        self.train_loss = torch.zeros(len(configs) + 1)  # sums, and the count last
        self.results_each: list[dict[str, float]] = []

    def configure_optimizers(self) -> Any:
        named = [m.trainable() for m in self.model.models]
        specs = [c.optimizer for c in self.configs]
        steps = int(self.trainer.estimated_stepping_batches)
        fused = self.fused and self.config.trainer.clip is None
        optimizer, scheduler = optim.joint_optimizer(specs, named, self.factors, steps, fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def factors(self) -> list[optim.Factors]:
        runs = zip(self.model.models, self.methods, self.configs, strict=True)
        return [rate_factors(model, method, config.optimizer) for model, method, config in runs]

    def configure_gradient_clipping(self, optimizer: Any, *given: Any, **more: Any) -> None:
        if self.config.trainer.clip is not None:
            for model in self.model.models:
                nn.utils.clip_grad_norm_([p for _, p in model.trainable()], self.config.trainer.clip)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self.counted(batch)
        size = self.model.task.size(batch)
        self.train_loss = self.train_loss.to(losses.device, non_blocking=True)
        self.train_loss[:-1] += losses.detach().float() * size
        self.train_loss[-1] += size
        return torch.stack([x for x, why in zip(losses, self.failed, strict=True) if not why]).sum()

    def check_weights(self) -> None:
        """Notes the runs whose weights are no longer numbers. Raises Diverged where none is left."""
        named = [model.trainable() for model in self.model.models]
        flags = iter(torch.stack([flag for own in named for flag in finite(own)]).tolist())
        for i, own in enumerate(named):
            sound = [next(flags) for _ in own]
            bad = next((n for (n, _), is_sound in zip(own, sound, strict=True) if not is_sound), None)
            if bad and not self.failed[i]:
                self.failed[i] = f"{bad} became nan in epoch {self.current_epoch + 1}; {ADVICE}"
        if all(self.failed):
            raise Diverged(self.failed[0])

    def fail(self, parameter: str, why: str) -> None:
        """Notes why the run of this parameter has failed. Raises UserError where no run is left."""
        run = int(parameter.split(".")[1])
        self.failed[run] = self.failed[run] or why
        if all(self.failed):
            raise UserError(self.failed[0])

    def close_epoch(self) -> None:
        total = self.trainer.strategy.reduce(self.train_loss.to(self.device), reduce_op="sum")
        means = (total[:-1] / total[-1]).tolist()
        self.train_loss = torch.zeros_like(self.train_loss)
        at = {"epoch": self.current_epoch + 1, "step": self.global_step, "train_seconds": self.elapsed["train"]}
        rates = self._rates()
        for mean, rate, history in zip(means, rates, self.histories, strict=True):
            history.append({**at, "train_loss": mean, "lr": rate})
        self.history.append(self._mean_row() | at)
        if self.trainer.num_val_batches and not self.cut_short:
            self.add_validation()

    def add_validation(self) -> None:
        for results, history in zip(self.results_each, self.histories, strict=True):
            history[-1] |= {f"val_{n}": v for n, v in results.items()}
        self.history[-1] = self._mean_row() | {n: self.history[-1][n] for n in ("epoch", "step", "train_seconds")}

    def _mean_row(self) -> dict[str, float]:
        """The last epoch's row, averaged over the runs that have not failed."""
        last = [h[-1] for h, why in zip(self.histories, self.failed, strict=True) if not why]
        return {key: sum(row[key] for row in last) / len(last) for key in last[0]}

    def _rates(self) -> list[float]:
        """Each run's learning rate now."""
        groups = iter(self.trainer.optimizers[0].param_groups)
        rates = []
        for model, config in zip(self.model.models, self.configs, strict=True):
            own = {id(p) for _, p in model.trainable()}
            while own:
                group = next(groups)
                own -= {id(p) for p in group["params"]}
            rates.append(optim.scheduled_rate(config.optimizer, group))
        return rates

    # -- evaluation

    def _metrics(self, metrics: Metrics) -> list[Metrics]:
        each = self.val_each if metrics is self.val_metrics else self.test_each
        return [cast(Metrics, m) for m in each]

    def _start_evaluation(self, metrics: Metrics) -> None:
        for own in self._metrics(metrics):
            own.reset()
        self._eval_loss = torch.zeros(len(self.configs) + 1, device=self.device)
        self.evaluated = 0

    def _evaluate(self, batch: Any, metrics: Metrics) -> None:
        predictions = self.model.evaluate(batch)
        task = self.model.task
        if not task.size(batch):
            return
        for i, (own, predicted) in enumerate(zip(self._metrics(metrics), predictions, strict=True)):
            own.update(predicted, task.targets(batch))
            loss = task.evaluation_loss(predicted, batch)
            assert loss is not None  # a task without one trains alone
            self._eval_loss[i] += loss
        self._eval_loss[-1] += task.size(batch)
        self.evaluated += task.size(batch)

    def _finish_evaluation(self, metrics: Metrics) -> dict[str, float]:
        total = self.trainer.strategy.reduce(self._eval_loss, reduce_op="sum")
        losses = (total[:-1] / total[-1]).tolist()
        self.results_each = [
            {n: v.item() for n, v in own.compute().items()} | {"loss": loss}
            for own, loss in zip(self._metrics(metrics), losses, strict=True)
        ]
        return self.results_each[0]

    def _conclude_each(self) -> list[dict[str, Any]]:
        own = self._metrics(self.val_metrics)
        return [dict(model.task.conclude(metrics)) for model, metrics in zip(self.model.models, own, strict=True)]

    def _results_of_each(self) -> list[dict[str, float]]:
        return self.results_each

    def _rows_of_each(self) -> list[Any]:
        own = self._metrics(self.test_metrics)
        return [model.task.rows(metrics) for model, metrics in zip(self.model.models, own, strict=True)]

    # -- what a checkpoint holds: the frozen backbone is in it for no run

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {n: t for n, t in state.items() if not _copies(n)}
        super().on_save_checkpoint(checkpoint)
        checkpoint["peftbench"] |= {"histories": self.histories, "failed": self.failed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.histories = checkpoint["peftbench"]["histories"]
        self.failed = checkpoint["peftbench"]["failed"]
        super().on_load_checkpoint(checkpoint)


def _copies(name: str) -> bool:
    """Whether this is the backbone under the name of another run than the first."""
    parts = name.split(".")
    return parts[:2] == ["model", "runs"] and parts[2] != "0" and parts[3] == "backbone"
