"""One run, from config to record: data, backbone, plan, adaptation, training, delta and record."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.common.stopping import endings_as_interrupts
from peftbench.common.tf32 import tf32
from peftbench.config import Config
from peftbench.config.given import refuse_no_config
from peftbench.data import ood
from peftbench.data.balancing import note_imbalance
from peftbench.data.base import Split, Splits, split_hash
from peftbench.data.copies import copies_not_looked_for
from peftbench.data.images import Preparation
from peftbench.data.loading import Loaders, Share, images_of, loaders
from peftbench.data.trial import images_of_trial
from peftbench.methods.base import Method
from peftbench.models.half_weights import half_weights
from peftbench.models.joint import JointModel
from peftbench.models.model import Model
from peftbench.results import Record
from peftbench.runs.arithmetic import settled_arithmetic
from peftbench.runs.build import build_backbone, instantiate, transform_of
from peftbench.runs.compatibility import refuse_combination, refuse_other_frames
from peftbench.runs.context import Context
from peftbench.runs.data_sets import load_splits, mistakes_of
from peftbench.runs.device_memory import out_of_memory_told
from peftbench.runs.longer_sequences import refuse_more_tokens_than_memory
from peftbench.runs.micro_batch_choice import settle_micro_batch, without_idle_parts
from peftbench.runs.shared_checkpoint import group_of, records_kept, remove_shared_checkpoint, shared_folder
from peftbench.runs.single_run import SingleRun
from peftbench.runs.solved_heads import settled_for_solving
from peftbench.runs.start_check import Start
from peftbench.runs.warm_start import WarmStart, read_start
from peftbench.tasks.base import task_class
from peftbench.training import (
    Diverged,
    Outcome,
    Stopped,
    device_of_process,
    fit,
    fit_jointly,
    processes_together,
    solve,
    tap_filling,
)
from peftbench.training.eight_bit_errors import errors_of_kept_taps


def run(config: Config, group: str | None = None, retry: bool = True) -> Record:
    """Carries out one run and returns its record; a run whose record is complete is read, not repeated.

    `group` is the sweep that the run belongs to; without `retry` a run that failed before is read too. Upon Ctrl-C,
    SIGTERM and SIGHUP the record says `interrupted`, and nothing is raised.

    Raises:
        UserError: see the message; where the run had begun, its record says `failed` or `refused` with the reason.
    """
    refuse_no_config("run", config)
    return run_jointly([config], group, retry)[0]


def run_jointly(
    configs: Sequence[Config], group: str | None = None, retry: bool = True, splits: Splits | None = None
) -> list[Record]:
    """Carries out runs in one pass over the data, and returns a record each; equal ones are one run.

    `splits` are those of their data set where they have been read already.

    They must be of a side method, over one backbone, with the same taps, data, order of batches, epochs, precision
    and kind of optimizer, as `sweeps.grouping.joint_signature` tells. A run that diverges fails alone, in its record.

    Raises:
        UserError: as `run`, of what befalls all of them.
    """
    context = Context.begin(configs[0], group, retry)
    if context.config.trainer.threads:
        torch.set_num_threads(context.config.trainer.threads)
    methods: list[Method] = [instantiate(config.method) for config in configs]
    configs = [settled_for_solving(c, m, context.tell_in_sweep) for c, m in zip(configs, methods, strict=True)]
    configs = [without_idle_parts(config, context.tell_in_sweep) for config in configs]
    settled = [settled_arithmetic(config) for config in configs]
    _, about = settled_arithmetic(configs[0], context.tell_in_sweep)
    configs = [config for config, _ in settled]
    context = dataclasses.replace(context, config=configs[0], settled=about)
    context.doing(f"looking at {_name(context.config, 'backbone')} without weights")
    warm = [read_start(config) for config in configs]
    for config, method in zip(configs, methods, strict=True):
        refuse_combination(config, method)
        refuse_other_frames(config)
        if len(configs) > 1 and (config.trainer.alone or config.optimizer.find_lr or method.solves):
            raise UserError(
                "trainer.keep=best, trainer.patience, trainer.minutes, trainer.ema, trainer.micro_batch, "
                "optimizer.find_lr, or a head that is solved: such a run chooses its own weights, end, parts of a "
                "batch, rate or head; carry it out alone, not together with others."
            )
    with processes_together(context.world, configs):
        return _carried_out(context, configs, methods, warm, splits)


def _carried_out(
    context: Context,
    configs: Sequence[Config],
    methods: Sequence[Method],
    warm: Sequence[WarmStart | None],
    splits: Splits | None,
) -> list[Record]:
    """As `run_jointly`, once all processes are there."""
    data = read_data(context, splits)
    if context.config.trainer.accumulate == "auto":
        context.doing("choosing how many images are computed at a time")
        configs, context = _settled(context, methods[0], data.splits)
    for config, method in zip(configs, methods, strict=True):
        refuse_more_tokens_than_memory(config, method, data.splits)
    context.doing(f"reading the weights of {_name(context.config, 'backbone')}")
    for config in configs:
        task_class(config.task).refuse_classes(config.task, data.splits.classes)
    backbone = build_backbone(context.config, context.tell)
    transform = transform_of(context.config, backbone)

    context.doing(f"reading the bytes of data={_name(context.config, 'data')}, for their hash")
    hash_of_data = data.hash
    context.doing("preparing")
    asked = [
        SingleRun(context.of(config), method, backbone, data.splits, hash_of_data, data.shifts, start)
        for config, method, start in zip(configs, methods, warm, strict=True)
    ]
    runs: dict[str, SingleRun] = {}
    for one in asked:
        runs.setdefault(one.id, one)
    joined: list[SingleRun] = []
    try:
        with endings_as_interrupts(), contextlib.ExitStack() as open_runs:
            for one in runs.values():
                open_runs.enter_context(one.opened())
            if todo := [one for one in runs.values() if not one.done]:
                joined = group_of(todo, runs)
                arithmetic = tf32(context.config.trainer.tf32)
                with records_kept(joined), out_of_memory_told(context.config, data.splits), arithmetic:
                    carry_out(context, joined, backbone, data, transform)
    except (Stopped, KeyboardInterrupt):
        for one in runs.values():
            one.end_unless_begun()
    if context.first and joined:  # last, when all records are written
        remove_shared_checkpoint(joined)
    return [runs[one.id].record for one in asked]


def _settled(context: Context, method: Method, splits: Splits) -> tuple[list[Config], Context]:
    """The run, alone as it is, with its micro-batch chosen."""
    with out_of_memory_told(context.config, splits):
        config, about = settle_micro_batch(context.config, method, splits, context.tell)
    return [config], dataclasses.replace(context, config=config, settled={**context.settled, "accumulate": about})


@dataclass(frozen=True)
class Data:
    """The data of a run, not yet decoded: its splits, those for this stage by role, and shifted test sets."""

    splits: Splits
    roles: tuple[Split, Split | None, Split | None]
    shifts: ood.Shifts

    @property
    def hash(self) -> str:
        """Of what the run trains, validates and tests on, and of the data set's own shifted test sets."""
        own = (shift for name, shift in self.shifts.items() if name in self.splits.shifted)
        return split_hash(*self.roles, *(shift for shift in own if isinstance(shift, Split)))


def read_data(context: Context, splits: Splits | None = None) -> Data:
    """Reads lists and labels; tells the user what is to be known of them. Raises UserError."""
    config = context.config
    if config.data.class_groups is not None and config.data.class_group is None:
        raise UserError(
            f"data.class_groups={config.data.class_groups}: a run is of one group of classes; give data.class_group=1, "
            f"say, or learn all, one after the other, by peftbench -m protocol=continual."
        )
    if splits is None:
        context.doing(f"reading the lists of data={_name(config, 'data')}")
        splits = load_splits(config)
    for note in splits.notes:
        context.tell(f"data={config.data.name}: {note}")
    roles = splits.roles(config.data.stage)
    if roles[1] is None and (key := config.trainer.needs_validation):
        raise _without_validation(key, config)
    with copies_not_looked_for(config.trainer.trial), mistakes_of("data"):
        shifts = ood.read_shifts(config, splits, context.tell)
        return Data(splits, images_of_trial(roles, config), shifts)


def _without_validation(key: str, config: Config) -> UserError:
    data = config.data
    possible = "val_fraction" in data.options
    remedy = "hold some out (data.val_fraction=0.2)" if possible else "take another data set"
    return UserError(
        f"{key}: data={data.name} has no validation images to tell epochs apart; {remedy}, or leave it out."
    )


def _name(config: Config, group: str) -> str:
    """As the user chose it."""
    return config.choices.get(group) or getattr(config, group).name


def carry_out(
    context: Context, runs: Sequence[SingleRun], backbone: Backbone, data: Data, transform: Preparation
) -> None:
    """Adapts, trains and tests runs in one pass; each gets its delta and record."""
    task = task_class(context.config.task)
    for note in task.look_at(context.config, transform, data.roles, data.splits.classes):
        context.tell(f"data={context.config.data.name}: {note}")
    if note := note_imbalance(context.config, data.splits.classes, data.roles[0].labels):
        context.tell(f"data={context.config.data.name}: {note}")
    with mistakes_of("data"), context.progress("reading images") as watch:
        batches = _loaders(context, data, transform, watch)
    context.doing(f"preparing method={_name(context.config, 'method')}")
    start = Start(backbone, data.splits.train.frames)
    for one in runs:
        one.adapt(transform, data.splits, batches, start)
    del start  # and the taps that it keeps
    models = [one.model for one in runs]
    model = models[0] if len(models) == 1 else JointModel(models)
    with model.padded_batches():
        taps = _keep_taps(context, model, batches, backbone.fingerprint)
        with mistakes_of("data"), context.progress("reading images") as watch:
            batches.load(watch)
        for one in runs:
            one.find_rate(batches)
        outcomes = _train(context, runs, batches)
        errors = _errors_of_eight_bits(context, model, outcomes, batches)
    context.doing("writing what was learned")
    for one, outcome, error in zip(runs, outcomes, errors, strict=True):
        if error is not None:
            one.record.stamps["taps"] = error
        if taps is not None:
            one.record.costs["taps"] = taps
        one.conclude(outcome)


def _loaders(context: Context, data: Data, transform: Preparation, watch: Watch) -> Loaders:
    config = context.config
    batches = loaders(
        data.roles,
        transform,
        config.data,
        seed=config.seed,
        share=Share(context.process, context.processes),
        limit=config.trainer.max_batches,
        pin=torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu"),
        views=config.taps.views,
        classes=len(data.splits.classes),
        neighbours=config.trainer.devices,
        threads=config.trainer.threads,
        watch=watch,
    )
    return dataclasses.replace(batches, ood=ood.shifted_loaders(data.shifts, batches, config))


def _keep_taps(context: Context, model: Model | JointModel, batches: Loaders, fingerprint: str) -> dict | None:
    """Has training and validation images replaced by their taps, where that helps; what it cost, for the record."""
    place = device_of_process(context.config.trainer)
    with half_weights(model), context.progress("computing taps", model.side is not None) as watch:
        return tap_filling.keep_taps(context.config, model, batches, fingerprint, place, watch, context.tell)


def _errors_of_eight_bits(
    context: Context, model: Model | JointModel, outcomes: Sequence[Outcome | Diverged], batches: Loaders
) -> list[dict | None]:
    """Of each run what keeping taps in 8 bits makes of them and of its logits, for the record; None of other taps."""
    images = images_of(batches.train)
    if context.config.taps.dtype is None or images is None or not all(isinstance(o, Outcome) for o in outcomes):
        return [None] * len(outcomes)
    place = device_of_process(context.config.trainer)
    errors: list[dict | None] = [*errors_of_kept_taps(model, images, context.config, place)]
    return errors


def _train(context: Context, runs: Sequence[SingleRun], batches: Loaders) -> list[Outcome | Diverged]:
    """Trains, or solves, and tests; several runs share a checkpoint in a folder beside theirs."""
    first = runs[0]
    if first.method.solves:
        with mistakes_of("data"), context.progress("computing features") as watch:
            return [solve(first.model, first.method, first.training, batches, first.folder, first.id, watch)]
    context.doing("beginning to train")
    if len(runs) == 1:
        return [fit(first.model, first.method, first.training, batches, first.folder, first.id, first.logger.epochs)]
    folder = shared_folder(runs)
    for one in runs:
        one.checkpoints = folder
    return fit_jointly(
        [one.model for one in runs],
        [one.method for one in runs],
        [one.context.config for one in runs],
        batches,
        folder,
        folder.name,
        [one.logger.epochs for one in runs],
    )
