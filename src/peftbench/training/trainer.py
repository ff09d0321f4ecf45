"""One training with Lightning's Trainer: from a model and loaders to metrics, times and memory."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.config import Trainer as TrainerConfig
from peftbench.costs import shared_energy
from peftbench.data.loading import Loaders
from peftbench.data.ood import average_over_shifts
from peftbench.methods.base import Method
from peftbench.models.joint import JointModel
from peftbench.models.model import Model
from peftbench.results.task_results import results_of_task
from peftbench.training.agreement import without_questions_of_its_own
from peftbench.training.checkpoint import Checkpoints, DirectIO
from peftbench.training.devices import device_of_process, world_of_process
from peftbench.training.gradient_watch import GradientWatch
from peftbench.training.joint import JointFit
from peftbench.training.loss_watch import Diverged
from peftbench.training.meters import Meters
from peftbench.training.module import Fit
from peftbench.training.progress_bar import Bar
from peftbench.training.rendezvous import Processes, join_group, losses_told
from peftbench.training.resuming import resumption
from peftbench.training.sharding import Sharded
from peftbench.training.signals import Signals
from peftbench.training.ways_of_steps import faster_steps
from peftbench.training.worker_errors import plain_sentences

PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
Watch = Callable[[list[dict[str, float]]], None]
UNLIMITED: dict[str, Any] = {
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches", "val_check_interval")),
    **dict.fromkeys(("max_time", "min_epochs", "min_steps")),
    "max_steps": -1,
    "fast_dev_run": False,
    "overfit_batches": 0.0,
    "check_val_every_n_epoch": 1,
}
"""Lightning's own limits, at their defaults: else it takes them from variables such as PL_TRAINER_MAX_STEPS, and a run
would end early without a word of it in its record."""


@dataclass(frozen=True)
class Outcome:
    """What training left: metrics by role, history, costs, the device, and the full state of the model.

    `chosen` is what the task chose by the validation images once training was over. `kept` says of which epoch the
    weights are and what ended the run, where that was not its last epoch as planned; `compiled` how many blocks were
    compiled, or why none was, where that was asked for, and `graphs` so of the shapes of batches that were captured;
    `solved` how a head was worked out that is not trained; `rows` is what the task writes to a file of its predictions
    for the test images, if anything. `untrained` are parameters that the method added and that seem not to train, each
    with what to tell of it.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    costs: dict[str, Any]
    device: torch.device
    state: Mapping[str, Tensor]
    rows: Any = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    compiled: Mapping[str, Any] = field(default_factory=dict)
    graphs: Mapping[str, Any] = field(default_factory=dict)
    untrained: Mapping[str, str] = field(default_factory=dict)
    solved: Mapping[str, Any] = field(default_factory=dict)


def fit(
    model: Model, method: Method, config: Config, loaders: Loaders, folder: Path, run_id: str, watch: Watch
) -> Outcome:
    """Trains, resuming where a checkpoint lies in `folder`, then tests once.

    `watch` is called with the whole history after every epoch, in the first process.

    Raises:
        Stopped: interrupted, a checkpoint was written.
        Diverged: the loss became NaN or infinite; the last checkpoint is kept.
        UserError: devices that are not there, or a checkpoint of another run.
    """
    # Anchors are the values before any checkpoint is restored: those that methods stay near to.
    anchors = (model.anchors or model.values()) if method.anchored or config.optimizer.anchored else {}
    shape = Sharded if config.trainer.strategy == "fsdp" else Fit
    module = shape(model, method, config, anchors, run_id)
    state, figures, place, metrics = _trained(module, loaders, folder, watch)
    metrics |= validated(module.concluded[0])  # of the weights that are kept
    row = module.history[module.kept_epoch - 1]
    outcome = _outcome(module.history, row, metrics, figures, place, state, module.rows and module.rows[0])
    outcome = replace(outcome, untrained=module.untrained, kept=_kept(module), chosen=module.chosen[0])
    compiled = module.compiled.stamp() if config.trainer.compile else {}
    return replace(outcome, compiled=compiled, graphs={} if module.graphs is None else module.graphs.stamp())


def fit_jointly(
    models: Sequence[Model],
    methods: Sequence[Method],
    configs: Sequence[Config],
    loaders: Loaders,
    folder: Path,
    run_id: str,
    watches: Sequence[Watch],
) -> list[Outcome | Diverged]:
    """As `fit`, for several runs of a side method over one backbone, in one pass; a run that diverged stands apart."""
    module = JointFit(JointModel(models), methods, configs, run_id)

    def watch(_: list[dict[str, float]]) -> None:
        for watch_run, history in zip(watches, module.histories, strict=True):
            watch_run(history)

    state, figures, place, _ = _trained(module, loaders, folder, watch)
    figures["together"] = len(configs)
    figures["energy"] = shared_energy(figures["energy"], len(configs))
    outcomes: list[Outcome | Diverged] = []
    for i, (history, why) in enumerate(zip(module.histories, module.failed, strict=True)):
        if why:
            outcomes.append(Diverged(why))
            continue
        prefix = f"runs.{i}."
        own_state = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        results = module.results_each[i] if loaders.test is not None else {}
        rows = module.rows and module.rows[i]
        metrics = _tested(results) | validated(module.concluded[i])
        outcome = _outcome(history, history[-1], metrics, copy.deepcopy(figures), place, own_state, rows)
        untrained = {n.removeprefix(prefix): told for n, told in module.untrained.items() if n.startswith(prefix)}
        outcomes.append(replace(outcome, untrained=untrained, chosen=module.chosen[i]))
    return outcomes


def _trained(
    module: Fit, loaders: Loaders, folder: Path, watch: Watch
) -> tuple[dict[str, Tensor], dict[str, Any], torch.device, dict[str, float]]:
    """The model's state after training, what training and testing cost, the device, and metrics of all tests."""
    config = module.config
    loaders.order.place = module.next_place
    meters = Meters()
    checkpoints = Checkpoints(folder, config.trainer.checkpoint_seconds, meters.aside)
    bars = [Bar(checkpoints.ask)] if config.trainer.progress else []
    signals, gradients = Signals(checkpoints), GradientWatch()
    deciding = [Epochs(watch), module.budget, module.average, module.keeper]
    trainer = lightning_trainer(config, folder, [signals, meters, *deciding, *bars, gradients, checkpoints])
    # What a streamed backbone leaves in its file is not there to be sent from process to process.
    absent = [n for n, p in module.named_parameters(remove_duplicate=False) if p.is_meta]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, absent)
    kept = resumption(folder, module, trainer)
    trainer.callbacks.append(kept)  # type: ignore[attr-defined]
    world = world_of_process(config.trainer)
    with signals, plain_sentences(), losses_told(world), faster_steps(module.model, config, loaders):
        if config.trainer.strategy != "single":
            join_group(world, device_of_process(config.trainer), config.trainer.meet_seconds)
        if kept.unvalidated:
            trainer.validate(module, loaders.val, ckpt_path=kept.path, verbose=False, weights_only=True)
        with kept.naming_file():
            trainer.fit(module, loaders.train, loaders.val, ckpt_path=kept.path, weights_only=True)
        if kept.unvalidated and trainer.is_global_zero:
            watch(module.history)
        module.untrained = gradients.note(module)
        module.average.settle(module)
        module.kept_epoch = module.keeper.restore(module)
        if module.method.finishes:
            module.method.finish(module.model, module.anchors)
        if loaders.val is not None and (module.method.finishes or module.model.task.concludes):
            module.concludes = True
            trainer.validate(module, loaders.val, verbose=False)
        state = state_of_model(trainer)
        metrics, tested = metrics_of_tests(trainer, module, loaders)
    return state, meters.costs(module, config, loaders.order.size, tested), meters.device, metrics


def _outcome(
    history: list[dict[str, float]],
    row: Mapping[str, float],
    metrics: dict[str, float],
    figures: dict[str, Any],
    place: torch.device,
    state: Mapping[str, Tensor],
    rows: Any,
) -> Outcome:
    """`row` is that of the epoch whose weights are kept; `metrics` are of tests, and of a validation after it."""
    of_epoch = validated({n.removeprefix("val_"): v for n, v in row.items() if n.startswith("val_")})
    return Outcome(of_epoch | metrics | {"train/loss": row["train_loss"]}, history, figures, place, state, rows)


def _kept(module: Fit) -> dict[str, Any]:
    """What the record says of a run that chose its epoch or its end: nothing where it had no choice."""
    spec, metric = module.config.trainer, module.keeper.metric
    if not spec.chooses_end:
        return {}
    row = module.history[module.kept_epoch - 1]
    kept: dict[str, Any] = {"keep": spec.keep, "epoch": module.kept_epoch, "epochs": len(module.history)}
    if metric in row:
        kept[f"val/{metric.removeprefix('val_')}"] = row[metric]
    if module.budget.share >= 1:
        kept["ended_by"] = "minutes"
    else:
        kept["ended_by"] = "epochs" if len(module.history) == spec.epochs else "patience"
    if spec.ema is not None:
        kept["average"] = spec.ema
    if spec.minutes is not None:
        kept["note"] = "trainer.minutes: how far it came, and so the result, depends on the machine"
    return kept


def validated(results: Mapping[str, float]) -> dict[str, float]:
    """Results under the names that validation has in a record."""
    return {f"val/{n}": v for n, v in results.items()}


def _tested(results: Mapping[str, float]) -> dict[str, float]:
    return {f"test/{n}": v for n, v in results.items()}


class Epochs(Callback):
    """Closes every epoch and hands the history on."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        module.close_epoch()
        if trainer.is_global_zero and not module.cut_short:  # else a resumed run adds the row
            self.watch(module.history)


def state_of_model(trainer: Trainer) -> dict[str, Tensor]:
    """The tensors of the model that a trainer has at hand, by their names in the model."""
    return {n.removeprefix("model."): t for n, t in trainer.strategy.lightning_module_state_dict().items()}


def metrics_of_tests(trainer: Trainer, module: Fit, loaders: Loaders) -> tuple[dict[str, float], tuple[float, int]]:
    """Tests on all test sets, once each: their metrics; seconds and images of this process in the test proper."""
    tested = 0.0, 0
    if loaders.test is not None:
        trainer.test(module, loaders.test, verbose=False)
        tested = module.test_seconds, module.evaluated
        module.energy.spent["test"] = module.test_joules
    results = dict(module.test_results) if loaders.test is not None else {}
    return _tested(results) | _shifted(trainer, module, loaders), tested


def _shifted(trainer: Trainer, module: Fit, loaders: Loaders) -> dict[str, float]:
    """The metrics of shifted test sets, each tested once as the test set is."""
    results = {}
    for name, loader in loaders.ood.items():
        trainer.test(module, loader, verbose=False)
        results[name] = dict(module.test_results)
    task = module.config.task
    return average_over_shifts(results, results_of_task(task.name, task.path).metric)


def lightning_trainer(config: Config, folder: Path, callbacks: list[Callback]) -> Trainer:
    """Lightning's Trainer as the config asks for it. Raises UserError where there is no such device."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    spec = config.trainer
    try:
        trainer = Trainer(
            accelerator=spec.accelerator,
            devices=spec.devices,
            num_nodes=spec.nodes,
            strategy=_strategy(spec),
            precision=PRECISION[spec.precision],  # type: ignore[arg-type]
            max_epochs=spec.epochs,
            accumulate_grad_batches=int(spec.accumulate),  # `auto` is a number by now
            gradient_clip_val=spec.clip,
            callbacks=callbacks,
            plugins=[DirectIO(), Processes(world_of_process(spec))],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **UNLIMITED,
            use_distributed_sampler=False,
            inference_mode=False,  # its tensors must not be cached by modules that train later (attention biases)
            default_root_dir=folder,
        )
        return without_questions_of_its_own(trainer)
    except (MisconfigurationException, RuntimeError, ValueError) as problem:
        text = str(problem).splitlines()[0]
        raise UserError(f"trainer.accelerator={spec.accelerator} trainer.devices={spec.devices}: {text}") from None


def _strategy(spec: TrainerConfig) -> Any:
    if spec.strategy == "ddp":
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(gradient_as_bucket_view=True)
    if spec.strategy == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        processes = spec.devices * spec.nodes
        return ModelParallelStrategy(processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
    return "auto"
