"""The Lightning module: steps, seeds, optimizer, and what a resumed run must know."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from peftbench import optim
from peftbench.common.errors import UserError
from peftbench.common.seeds import mix
from peftbench.config import Config
from peftbench.costs import EnergyMeter, SavedBytes, wait_for
from peftbench.data.images import Indices, ready
from peftbench.methods.base import Method
from peftbench.models.joint import JointModel
from peftbench.models.model import Model
from peftbench.results.task_results import results_of_task
from peftbench.tasks.base import Metrics
from peftbench.training.averaging import Average
from peftbench.training.compiling import CompiledBlocks
from peftbench.training.consistency import Consistency
from peftbench.training.graphs import LossGraphs
from peftbench.training.keeping import Keeper, best_epoch
from peftbench.training.loss_watch import ADVICE, Diverged, LossWatch
from peftbench.training.micro_batches import parts_of_batch
from peftbench.training.rate_factors import rate_factors
from peftbench.training.time_budget import TimeBudget
from peftbench.training.unmoved import Unmoved


class Fit(LightningModule):
    """Trains a `Model`. Every batch is seeded by its place, so that where a run was interrupted leaves no trace.

    `history` has one row an epoch; `elapsed` the seconds of training and validation so far, all sessions together.
    """

    def __init__(
        self, model: Model | JointModel, method: Method, config: Config, anchors: Mapping[str, Tensor], run_id: str
    ) -> None:
        super().__init__()
        self.runs = len(model.models) if isinstance(model, JointModel) else 1
        self.strict_loading = False  # the frozen backbone is not in a checkpoint
        self.model = model
        self.method, self.config, self.anchors, self.run_id = method, config, anchors, run_id
        self.start = {f"model.{n}": d for n, d in model.start().items()}
        self.val_metrics, self.test_metrics = model.task.metrics(), model.task.metrics()
        self.saved = SavedBytes(model)
        self._unmoved = Unmoved(self)
        self.history: list[dict[str, float]] = []
        self.elapsed = {"train": 0.0, "validate": 0.0}
        self.energy = EnergyMeter()
        self.sessions = 1
        self.place = (0, 0)  # (epoch, batches done in it) where a resumed run takes up
        self.train_loss = torch.zeros(2)  # sum and count of this epoch
        self.measured: dict[str, Any] = {}
        """Step times and memory so far: what stands where a resumed run has no step left to measure."""
        self.untrained: dict[str, str] = {}
        """After training: what to tell of parameters that seem not to train, by their names."""
        task = config.task
        self.keeper = Keeper(config.trainer, f"val_{results_of_task(task.name, task.path).metric}")
        self.budget = TimeBudget(config.trainer.minutes)
        self.average = Average(config.trainer.ema)
        self.compiled = CompiledBlocks()
        self.graphs = LossGraphs(model) if config.trainer.graphs and isinstance(model, Model) else None
        self.consistency: Consistency | None = None
        if config.trainer.consistency:
            assert isinstance(model, Model)
            self.consistency = Consistency(model, method, config.trainer)
        self._batch, self._parts = 0, 0  # of this epoch, and of this batch so far
        self.kept_epoch = 0  # from 1, once training is over
        self._loss_watch = LossWatch()
        self._counted = 0
        self.counts_saved = True
        self._eval_loss = torch.zeros(2)
        self.cut_short = False
        """Whether the run is stopped in the midst of this epoch's validation."""
        self.validated: dict[str, float] = {}
        self.concludes = False
        """Whether the next validation is that of the weights which the run keeps, after all training."""
        self.concluded: list[dict[str, float]] = [{} for _ in range(self.runs)]  # its results, of each run
        self.chosen: list[dict[str, Any]] = [{} for _ in range(self.runs)]  # what the task chose by it
        self.rows: list[Any] | None = None  # what the task keeps of its predictions for the test images, of each run
        self.evaluated = 0  # images of this process in the last evaluation
        self.test_seconds = 0.0  # that the last test took
        self.test_joules = 0.0

    def next_place(self) -> tuple[int, int]:
        """Where the order of batches begins; Lightning counts an epoch only after a resumed run has begun the next."""
        epoch = max(self.trainer.current_epoch, self.place[0])
        return epoch, self.place[1] if epoch == self.place[0] else 0

    def setup(self, stage: str) -> None:
        """Raises UserError where not as many processes work together as each was told: each would read a part."""
        spec, together = self.config.trainer, self.trainer.world_size
        if together != spec.devices * spec.nodes:
            raise UserError(
                f"trainer.devices={spec.devices} trainer.nodes={spec.nodes}: expected {spec.devices * spec.nodes} "
                f"processes, but {together} work together; start them with the peftbench command, srun or torchrun."
            )

    def moving(self) -> dict[str, Tensor]:
        """All that training may move, by its name in the model: what trains, and buffers (statistics, counters)."""
        buffers = dict(self.model.named_buffers())
        kept = {n: buffers[n] for n in self.model.state_dict() if n in buffers and not buffers[n].is_meta}
        return {**dict(self.model.trainable()), **kept}

    def averaged(self) -> dict[str, Tensor]:
        """Of all that moves, what is validated and kept: the average, where there is one."""
        return self.average.tensors or self.moving()

    # -- training

    def configure_optimizers(self) -> Any:
        named = self.model.trainable()
        (factors,) = self.factors
        inner = optim.optimizer(self.config.optimizer, named, self.anchors, self.fused, factors)
        optimizer: Any = self.method.optimizer(named, self.anchors, inner)
        if getattr(optimizer, "needs_held_out_loss", False):
            optimizer.objective = self._held_out_loss
            if scaler := getattr(self.trainer.precision_plugin, "scaler", None):
                optimizer.scaled = scaler.scale
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = optim.schedule(self.config.optimizer, optimizer, steps, self.budget.place)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def factors(self) -> list[optim.Factors]:
        """Of each run: what the learning rates of its parameters are multiplied with."""
        assert isinstance(self.model, Model)
        return [rate_factors(self.model, self.method, self.config.optimizer)]

    @property
    def fused(self) -> bool:
        """Whether the optimizer may step in one kernel."""
        trainer = self.config.trainer
        # A fused step unscales gradients by itself, so in mixed precision Lightning does not clip before one.
        clips = trainer.clip is not None and trainer.precision != "32"
        return not clips and trainer.strategy != "fsdp" and self.device.type in ("cpu", "cuda")

    def _held_out_loss(self) -> Tensor:
        """The loss of the step's validation batch (of a training batch, where nothing is held out), in eval mode."""
        loaders: Any = self.trainer.val_dataloaders or self.trainer.train_dataloader
        size, images = loaders.batch_sampler.batch_size, len(loaders.dataset)
        at = self.global_step % max(images // size, 1) * size
        seed = mix(self.config.seed, self.global_step, 2)
        batch = loaders.dataset.__getitems__(Indices(range(at, min(at + size, images)), seed))
        batch = self.trainer.strategy.batch_to_device(batch, self.device)
        self.model.eval()
        with self.trainer.precision_plugin.forward_context():
            loss = self.model.loss(batch)
        self.model.train()
        return loss

    def on_train_start(self) -> None:
        self.model.train()  # Lightning keeps the modes it finds, and a backbone is built in eval mode
        if self.config.trainer.compile:
            self.compiled.begin(self)

    def on_train_end(self) -> None:
        self.compiled.end()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Lightning calls it between the loss and its gradients: too late where a batch is computed in parts."""
        if self.config.trainer.micro_batch is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(mix(self.config.seed, self.current_epoch, batch_idx, self.global_rank, 1))
        self._batch, self._parts = batch_idx, 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return ready(batch, self.model.backbone.facts.input_size)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        size = self.model.task.size(batch)
        loss, whole = self._loss_of_parts(batch, size, batch_idx)
        self._loss_watch.look(whole, self.current_epoch + 1, self.global_step + 1)
        self.train_loss = self.train_loss.to(loss.device, non_blocking=True)
        self.train_loss[0] += whole.detach().float() * size
        self.train_loss[1] += size  # no new tensor: copying one to the device would wait for it
        return loss

    def _loss_of_parts(self, batch: Any, size: int, batch_idx: int) -> tuple[Tensor, Tensor]:
        """(what is left to differentiate, the batch's loss); the gradients of all parts but the last are there then."""
        most = self.config.trainer.micro_batch
        if most is None:
            loss = self.counted(batch)
            return loss, loss
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            for optimizer in self.trainer.optimizers:
                optimizer.zero_grad()
        *others, (last, count) = parts_of_batch(batch, size, most)
        whole = torch.zeros((), device=self.device)
        for part, images in others:
            loss = self.counted(part) * (images / size)
            whole += loss.detach().float()
            with torch.autocast(self.device.type, enabled=False):
                plugin = self.trainer.precision_plugin
                plugin.pre_backward(loss / self.trainer.accumulate_grad_batches, self).backward()
        loss = self.counted(last) * (count / size)
        return loss, whole + loss.detach().float()

    def counted(self, batch: Any) -> Tensor:
        """The batch's loss; of the largest batch so far (a resumed run may begin with a small one) the saved bytes."""
        size = self.model.task.size(batch)
        if not self.counts_saved or size <= self._counted:
            return self._objective(batch) if self.graphs is None else self.graphs.loss(batch)
        self._counted = size
        with self.saved.counting():
            return self._objective(batch)

    def _objective(self, batch: Any) -> Tensor:
        """What is differentiated, of a batch or of a part of one."""
        if self.consistency is None:
            return self.model.loss(batch)
        self._parts += 1
        place = self.config.seed, self.current_epoch, self._batch, self.global_rank, self._parts
        return self.consistency.loss(batch, self.global_step, *place)

    def check_weights(self) -> None:
        """Raises Diverged where a trained weight is no longer a number: such a state is neither kept nor complete."""
        named = self.model.trainable()
        wrong = [~sound for sound in finite(named)]
        flags = torch.stack(wrong).float() if wrong else torch.zeros(1, device=self.device)
        if self.trainer.strategy.reduce(flags.sum(), reduce_op="sum").item():  # all processes raise together
            bad = next((n for (n, _), is_wrong in zip(named, flags.tolist(), strict=False) if is_wrong), None)
            what = bad or "a weight of another process"
            raise Diverged(f"{what} became nan in epoch {self.current_epoch + 1}, step {self.global_step}; {ADVICE}")

    def fail(self, parameter: str, why: str) -> None:
        """Ends the run that this parameter of the model belongs to. Raises UserError."""
        raise UserError(why)

    def close_epoch(self) -> None:
        """Adds the epoch's row to the history; called before any other hook of the epoch's end looks at it."""
        total = self.trainer.strategy.reduce(self.train_loss.to(self.device), reduce_op="sum")
        row = {
            "epoch": self.current_epoch + 1,
            "step": self.global_step,
            "train_loss": (total[0] / total[1]).item(),
            "lr": optim.scheduled_rate(self.config.optimizer, self.trainer.optimizers[0].param_groups[0]),
            "train_seconds": self.elapsed["train"],
        }
        self.train_loss = torch.zeros_like(self.train_loss)
        self.history.append(row)
        if self.trainer.num_val_batches and not self.cut_short:
            self.add_validation()

    def add_validation(self) -> None:
        """Adds the last validation to the last epoch's row."""
        self.history[-1] |= {f"val_{n}": v for n, v in self.validated.items()}

    # -- evaluation

    def on_validation_epoch_start(self) -> None:
        self._begin_to_evaluate(self.trainer.val_dataloaders)
        self._start_evaluation(self.val_metrics)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        if not self.cut_short:
            self._refuse_lost_images("validation", self.trainer.val_dataloaders)
            if self.concludes:
                self.chosen = self._conclude_each()
            self.validated = self._finish_evaluation(self.val_metrics)
            if self.concludes:
                self.concluded, self.concludes = self._results_of_each(), False
        self._validation_seconds = self._seconds_of_evaluation()
        self.elapsed["validate"] += self._validation_seconds

    def on_test_epoch_start(self) -> None:
        self._begin_to_evaluate(self.trainer.test_dataloaders)
        self.energy.begin()
        self._start_evaluation(self.test_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        self._refuse_lost_images("test", self.trainer.test_dataloaders)
        self.test_results = self._finish_evaluation(self.test_metrics)
        self.test_seconds = self._seconds_of_evaluation()
        self.test_joules = self.energy.end()
        if self.rows is None:  # the test set comes first, and shifted ones after it
            self.rows = self._rows_of_each()

    def _begin_to_evaluate(self, loader: Any) -> None:
        """The time of an evaluation begins, with the start of the workers that are there by now."""
        wait_for(self.device)
        self._begin = time.perf_counter() - loader.take_starting()

    def _seconds_of_evaluation(self) -> float:
        """Until the device has done all of it."""
        wait_for(self.device)
        return time.perf_counter() - self._begin

    def _conclude_each(self) -> list[dict[str, Any]]:
        return [dict(self.model.task.conclude(self.val_metrics))]

    def _results_of_each(self) -> list[dict[str, float]]:
        return [self.validated]

    def _rows_of_each(self) -> list[Any]:
        return [self.model.task.rows(self.test_metrics)]

    def _refuse_lost_images(self, role: str, loader: Any) -> None:
        """Raises UserError where the images that were evaluated are not as many as the set has."""
        count = self.trainer.strategy.reduce(torch.tensor(self.evaluated, device=self.device), reduce_op="sum")
        expected = loader.batch_sampler.images
        if int(count) != expected:
            raise UserError(
                f"the {role} set has {expected} images, and {int(count)} were evaluated in {self.trainer.world_size} "
                f"processes; metrics of a part are not recorded."
            )

    def _start_evaluation(self, metrics: Metrics) -> None:
        metrics.reset()
        self._eval_loss = torch.zeros(2, device=self.device)
        self.evaluated = 0

    def _evaluate(self, batch: Any, metrics: Metrics) -> None:
        predictions = self.model.evaluate(batch)
        if not self.model.task.size(batch):  # this process's share of a small last batch may be nothing
            return
        metrics.update(predictions, self.model.task.targets(batch))
        self.evaluated += self.model.task.size(batch)
        if (loss := self.model.task.evaluation_loss(predictions, batch)) is not None:
            self._eval_loss[0] += loss
            self._eval_loss[1] += self.model.task.size(batch)

    def _finish_evaluation(self, metrics: Metrics) -> dict[str, float]:
        total = self.trainer.strategy.reduce(self._eval_loss, reduce_op="sum")
        results = {n: v.item() for n, v in metrics.compute().items()}
        if total[1]:
            results["loss"] = (total[0] / total[1]).item()
        return results

    # -- what a checkpoint holds: the delta, not the frozen backbone

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self._unmoved.changed(checkpoint["state_dict"], self.start)
        checkpoint["peftbench"] = {
            "id": self.run_id,
            "place": list(self.place),
            "history": self.history,
            "elapsed": dict(self.elapsed),
            "energy": self.energy.state(),
            "sessions": self.sessions,
            "measured": self.measured,
            "unvalidated": self.cut_short,
            "train_loss": self.train_loss.cpu(),
        }
        if self.keeper.keeps:
            checkpoint["peftbench"]["kept"] = self.keeper.weights
        if self.average.decay is not None:
            checkpoint["peftbench"]["average"] = {"steps": self.average.steps, "tensors": self.average.tensors}
        if self.budget.seconds is not None:
            checkpoint["peftbench"]["spent"] = self.budget.now()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["peftbench"]
        self.place = tuple(kept["place"])
        self.history, self.elapsed = kept["history"], kept["elapsed"]
        self.energy.take_up(kept.get("energy", {}))
        self.sessions = kept["sessions"] + 1
        self.measured = kept["measured"]
        self.train_loss = kept["train_loss"]
        self.keeper.weights = kept.get("kept", {})
        self.budget.spent = kept.get("spent", 0.0)
        if "average" in kept:
            self.average.steps, self.average.tensors = kept["average"]["steps"], kept["average"]["tensors"]
        if kept.get("unvalidated") and self.validated:  # the epoch's validation was made up for just now
            self.add_validation()
            self.elapsed["validate"] += self._validation_seconds
            self.keeper.note(self, best_epoch(self.history, self.keeper.metric))


def finite(named: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
    """Of each tensor whether all its numbers are finite, () of bool on its device, so that nobody waits for each.

    Of a sharded one this process looks at its share.
    """
    return [torch.isfinite(t.to_local() if hasattr(t, "to_local") else t).all() for _, t in named]
