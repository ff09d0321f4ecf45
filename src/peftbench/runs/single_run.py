"""One of the runs that are carried out: its folder, its model, its record."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from peftbench import costs, deltas, pruning
from peftbench.backbones import Backbone
from peftbench.common import terminal
from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import Refusal, UserError
from peftbench.common.readable_names import HANDLER
from peftbench.common.seeds import mix
from peftbench.common.stopping import UNREAD, signals_later
from peftbench.config import Config, run_id
from peftbench.data import ood
from peftbench.data.base import Splits
from peftbench.data.images import Preparation
from peftbench.data.loading import Loaders, images_of
from peftbench.methods.base import Method, Phase, Plan
from peftbench.models.model import Model
from peftbench.results import Record
from peftbench.results.money import money_of
from peftbench.results.task_results import percent
from peftbench.runs import loggers, starting_backbone
from peftbench.runs.compatibility import choose_ways_of_computing
from peftbench.runs.context import Context
from peftbench.runs.earlier_run import finished_before
from peftbench.runs.first_phase import FirstPhase, phase_before
from peftbench.runs.folder import owned_folder, prepared_folder, write_config
from peftbench.runs.found_rate import Rate, found_rate
from peftbench.runs.frozen_prefix import choose_prefix
from peftbench.runs.plan_file import CONFIG, delta_metadata, has_plan, make_plan, write_plan
from peftbench.runs.stamps import stamps_of
from peftbench.runs.start_check import Start
from peftbench.runs.warm_start import WarmStart
from peftbench.tasks.base import begin_task, task_class
from peftbench.training import CHECKPOINT, Aborted, Diverged, Outcome, Stopped, images_learned_from


class SingleRun:
    """Holds what belongs to one run while it is carried out, alone or jointly with others.

    Attributes:
        id: a hash of all that can change its numbers; the name of its folder.
        classes, categories: what the data tell apart, and the numbers of that in their files, where they have such.
        done: whether its record was there already.
        checkpoints: the folder of its checkpoint, which runs that train jointly share.
        warm: the run that it begins from, if any.
        model, plan: once it is adapted.
        before: the phase that was trained first, of a method that has one.
        rate: what was looked for, with `optimizer.find_lr`.
    """

    model: Model
    plan: Plan

    def __init__(
        self,
        context: Context,
        method: Method,
        backbone: Backbone,
        splits: Splits,
        data_hash: str,
        shifts: ood.Shifts,
        warm: WarmStart | None,
    ) -> None:
        self.context, self.method, self.backbone = context, method, backbone
        config = context.config
        stamps = stamps_of(config, backbone, splits, data_hash) | dict(context.settled)
        if shifts:
            stamps["data"]["ood"] = ood.stamps_of_shifts(shifts)
        start_file = stamps.get("task", {}).get("sha256", "")
        self.warm = warm
        if self.warm is not None:
            self.warm.refuse_other_backbone(backbone, start_file)
            stamps["start"] = self.warm.stamp()
        start = "".join([stamps["backbone"]["fingerprint"], start_file, "" if self.warm is None else self.warm.hash])
        self.classes, self.categories = splits.classes, splits.train.categories
        self.id = run_id(config, start, stamps["data"]["hash"])
        self.folder = Path(config.output_dir) / self.id
        self.record = Record(self.id, "running", config.to_dict(), stamps=stamps)
        self.logger = loggers.Logger()
        self.checkpoints = self.folder
        self.done = False
        self.before: FirstPhase | None = None
        self.rate: Rate | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The run's folder is its own, and whatever happens inside is recorded; a complete run is read instead."""
        context = self.context
        with owned_folder(self.folder, context.process, context.group):
            ours = (context, self.folder, self.id, self.classes, self.categories)
            old = None if context.config.force else finished_before(*ours)
            if old is not None:
                self.record, self.done = old, True
                self.record.was_there = True
                self._say_that_it_is_done()
                yield
                return
            if context.first:
                prepared_folder(self.folder, context.config)
                if context.config.pruning.name != "none":  # else the file that was given is the one to share
                    starting_backbone.keep_pruned_file(self.backbone, context.config)
            with self._recorded():
                if context.first:
                    self.record.write(self.folder)
                    self.logger = loggers.make_logger(context.config, self.id, self.folder, context.group)
                yield

    def end_unless_begun(self) -> None:
        """A run that was stopped before its folder was its own is interrupted too; what is on the disk stays."""
        if self.record.status == "running":
            self.record.status, self.record.reason = "interrupted", self._why_stopped("stopped by the user")

    def adapt(self, transform: Preparation, splits: Splits, batches: Loaders, start: Start) -> None:
        """Makes the model of this run: backbone and head, the method's plan, and what the method adds.

        Raises Refusal where the method says that it starts as the backbone, `start`, and does not.
        """
        context, backbone = self.context, self.backbone
        config = context.config
        self.record.stamps["data"] |= {"skipped": list(batches.skipped), "images": batches.images()}
        torch.manual_seed(mix(config.seed, 0))
        task = task_class(config.task).build(config.task, backbone, splits.classes, splits.train.categories)
        trained = images_of(batches.train)
        assert trained is not None
        task.learn_targets(trained.split.labels)
        task.learn_groups(splits.groups)
        if note := begin_task(task, config.task, config.backbone):
            context.tell(note)
        self.model = Model(backbone, task, transform.mean, transform.std)
        self.model.flips = config.data.tta == "flip"
        phase = phase_before(config, self.method)
        if phase is not None and self.warm is None:  # else its head comes from that run
            self._train_first_phase(phase, batches)
        begun = None if self.warm is None else self.warm.plan
        self.plan = make_plan(self.folder, self.method, self.model, batches, context, begun)
        self.record.plan = dict(self.plan.facts)
        if skipped := dict(self.method.skipped(backbone)):
            self.record.plan["skipped"] = skipped
            name, why = next(iter(skipped.items()))
            left = agreeing(len(skipped), "is left as it is", "are left as they are")
            context.tell(
                f"method={config.method.name}: {plural(len(skipped), 'layer')} {left}, such as {name}: {why} "
                f"(peftbench plan names all)"
            )
        start.remember(self.method, self.model)
        self.model.adapted(self.method.adapt(backbone, self.plan))
        if self.method.solves:
            learned_from = images_learned_from(batches)
            self.record.stamps["data"]["images"]["train"] = learned_from
            self.model.task.put_head(partial(self.method.head, images=learned_from))
        pruning.hold_zeros(backbone)
        start.refuse_other(self.method, config.method.name, self.model)
        choose_ways_of_computing(config, self.model)
        self._tell_of_statistics()
        if self.warm is not None:
            if self.method.anchored_at == "pretrained":
                self.model.anchors = self.model.values()
            context.tell(self.warm.take(self.model))
        self.record.costs = {"parameters": costs.parameters(self.model)}
        if context.first:
            image = _blank_input(config, backbone, splits.train.frames)
            self.record.costs |= costs.measured("flops", lambda: costs.flops(self.model, image), context.tell)
        choose_prefix(config, self.method, self.model, transform.size is not None, context.tell)

    @property
    def training(self) -> Config:
        """The config to train by: at the rate that was found, and without the time that a first phase took."""
        config = self.context.config
        if self.rate is not None:
            config = self.rate.of(config)
        return config if self.before is None else self.before.left_for_the_rest(config)

    def find_rate(self, batches: Loaders) -> None:
        """Looks for the learning rate where the config asks for that; a resumed run has what it found before."""
        if self.context.config.optimizer.find_lr:
            self.rate = found_rate(self.context, self.method, self.model, batches, self.id, self.folder)
            self.record.stamps["found_lr"] = self.rate.stamp()

    def _train_first_phase(self, phase: Phase, batches: Loaders) -> None:
        """Trains what comes before the method, or reads what an earlier session left; the model's task goes on from it.

        Its checkpoint lies in a folder of its own until it is over.
        """
        self.before = FirstPhase(self.context, phase, self.id, self.folder)
        self.checkpoints = self.before.checkpoints
        self.before.carry_out(self.model, batches)
        self.checkpoints = self.folder
        self.record.stamps["first_phase"] = self.before.stamp()

    def conclude(self, outcome: Outcome | Diverged) -> None:
        """Writes the delta and completes the record, or says in it why there is none; a complete run has both."""
        if self.done:
            return
        if isinstance(outcome, Diverged):
            self.record.status, self.record.reason = "failed", str(outcome)
        elif self.context.first:
            self._tell_of_untrained(outcome)
            self._tell_of_kept(outcome)
            if outcome.chosen:
                self.record.stamps["chosen"] = dict(outcome.chosen)
            if outcome.solved:
                self._note_solution(outcome)
            if outcome.compiled:
                self.record.stamps["compiled"] = dict(outcome.compiled)
            if outcome.graphs:
                self.record.stamps["graphs"] = dict(outcome.graphs)
            if outcome.rows is not None:
                self.record.stamps |= self.model.task.write_rows(outcome.rows, self.folder) or {}
            self._complete(outcome)

    def _tell_of_untrained(self, outcome: Outcome) -> None:
        if outcome.untrained:
            self.record.plan["untrained"] = dict(outcome.untrained)
            name, why = next(iter(outcome.untrained.items()))
            self.context.tell(f"method={self.context.config.method.name}: {name}: {why}")

    def _note_solution(self, outcome: Outcome) -> None:
        """How the head was solved, and what was chosen for it by which images."""
        solved = self.record.stamps["solved"] = dict(outcome.solved)
        chosen = ", ".join(f"{name}={value:g}" for name, value in solved["chosen"].items())
        if solved["held_out"]:
            by = f"chosen by {solved['held_out']:,} {solved['held_out_of']}"
            self.context.tell(f"method={self.context.config.method.name}: {chosen}, {by}")

    def _tell_of_statistics(self) -> None:
        """That batch norms see one part of a batch, where it is computed in parts."""
        config = self.context.config
        if config.trainer.micro_batch is None or not self.model.moves_statistics:
            return
        self.context.tell(
            f"trainer.micro_batch={config.trainer.micro_batch}: batch norms that train see so many images at a time, "
            f"and not the {config.data.batch_size} of the batch, so that results differ from those of a whole one"
        )

    def _tell_of_kept(self, outcome: Outcome) -> None:
        """Which epoch's weights were kept and what ended the run, where that was open."""
        kept = outcome.kept
        if not kept:
            return
        self.record.stamps["kept"] = dict(kept)
        metric = f"val/{self.record.stamps['judged_by']}"
        reached = f", {100 * kept[metric]:.1f} {percent(metric)} on validation" if metric in kept else ""
        self.context.tell(f"kept: epoch {kept['epoch']} of {kept['epochs']}{reached}; ended by {kept['ended_by']}")

    def _complete(self, outcome: Outcome) -> None:
        """The delta, the costs that need the finished model, and the record."""
        record, model = self.record, self.model
        learned = deltas.changed_tensors(outcome.state, model.start())
        record.costs |= outcome.costs
        if self.before is not None:
            record.costs = self.before.with_costs(record.costs)
        if self.rate is not None:
            record.costs["find_lr"] = self.rate.costs()
        if (price := self.context.config.costs.price) is not None:
            record.costs["money"] = money_of(record.costs, price)
        self._put_back()
        metadata = delta_metadata(record, model, self.plan)
        record.costs["delta_bytes"] = deltas.save_delta(self.folder / deltas.FILE, learned, metadata)
        if self.context.config.trainer.strategy != "fsdp":  # no process holds the whole model
            model.to(outcome.device)
            model.prefix = None  # the finished model predicts in one pass
            self.method.merge(model.backbone)
            if model.backbone.masks:
                record.costs["sparsity"] = pruning.sparsity(model.backbone)
            frames, tell = record.stamps["data"]["frames"], self.context.tell
            image = _blank_input(self.context.config, model.backbone, frames).to(outcome.device)
            record.costs["time"] |= costs.measured("latency", lambda: costs.latency(model, image), tell)
        record.metrics, record.history = outcome.metrics, outcome.history
        record.status = "complete"

    def _say_that_it_is_done(self) -> None:
        """Tells why nothing is done; a protocol that chose this setting, and a new price, are noted in its record."""
        if not self.context.first:
            return
        config, old = self.context.config, self.record
        if config.protocol and old.config.get("protocol") != config.protocol:
            old.config["protocol"] = config.to_dict()["protocol"]
            old.write(self.folder)
        price = config.costs.price
        if price is not None and old.status == "complete" and (old.costs.get("money") or {}).get("price") != price:
            old.costs["money"] = money_of(old.costs, price)
            old.config["costs"] = {**(old.config.get("costs") or {}), "price": price}
            old.write(self.folder)
        if config.trainer.progress:
            done = "already complete; force=true repeats it"
            text = done if old.status == "complete" else "failed before; sweep.retry=true tries again"
            terminal.console().print(f"{self.folder}: {text}", highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """Whatever happens inside, the record says how it ended, and the logger is closed."""
        record = self.record
        try:
            yield
        except (Stopped, KeyboardInterrupt) as stop:
            at_once = isinstance(stop, Aborted | KeyboardInterrupt)
            record.status, record.reason = "interrupted", self._why_stopped(str(stop) or "stopped by the user", at_once)
            raise
        except UserError as problem:
            record.status = "refused" if isinstance(problem, Refusal) else "failed"
            record.reason = self._with_checkpoint(problem)
            mistake = type(problem)(record.reason)
            mistake.of, mistake.begun = problem.of, record.status == "failed"
            raise mistake from None
        except BrokenPipeError:
            record.status, record.reason = "interrupted", self._why_stopped(UNREAD)
            raise
        except Exception as problem:
            record.status, record.reason = "failed", f"{type(problem).__name__}: {problem}"
            with contextlib.suppress(OSError):
                (self.folder / "error.log").write_text(traceback.format_exc(), encoding="utf-8", errors=HANDLER)
            raise
        except BaseException as end:  # an exit, such as rich's where the output is a broken pipe
            unread = isinstance(end.__context__, BrokenPipeError)
            why = UNREAD if unread else f"ended by {type(end).__name__}"
            record.status, record.reason = "interrupted", self._why_stopped(why)
            raise
        finally:
            if self.context.first:
                with contextlib.ExitStack() as closing:
                    closing.callback(self.logger.finish, record)
                    closing.callback(self._write_record)  # first: sending figures may take long

    def _why_stopped(self, why: str, at_once: bool = True) -> str:
        if not (self.checkpoints / CHECKPOINT).is_file():
            return f"{why} before anything was saved"
        return f"{why}; the same command resumes it" + (" from its last checkpoint" if at_once else "")

    def _with_checkpoint(self, problem: UserError) -> str:
        """The sentence, and for a run that diverged where its last good state is."""
        checkpoint = self.checkpoints / CHECKPOINT
        kept = f" (the state before it is kept in {checkpoint})"
        if isinstance(problem, Diverged) and checkpoint.is_file() and kept not in str(problem):
            return f"{problem}{kept}"
        return str(problem)

    def _put_back(self) -> None:
        """Writes again what was written when the run began, where somebody removed the folder since."""
        if (self.folder / CONFIG).is_file() and (not self.method.plans or has_plan(self.folder)):
            return
        write_config(self.folder, self.context.config)
        if self.method.plans:
            write_plan(self.folder, self.plan)
        if self.context.config.pruning.name != "none":
            starting_backbone.keep_pruned_file(self.backbone, self.context.config)
        self.context.tell(f"{self.folder}: files of this run were removed while it went on, and are written again")

    def _refuse_removed(self) -> None:
        """A run whose files went away after all was done is not complete: nothing could use it."""
        lost = [name for name in (CONFIG, deltas.FILE) if not (self.folder / name).is_file()]
        if self.record.status == "complete" and lost and not self.done:
            self.record.status = "failed"
            self.record.reason = f"{self.folder / lost[0]}: was removed while the run went on"

    def _write_record(self) -> None:
        self._refuse_removed()
        self.record.stamps["ended"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with signals_later():
            if self.record.status == "complete":
                self.record.write(self.folder)
            else:  # what went wrong is being told already; on a full disk the record cannot say it too
                with contextlib.suppress(UserError):
                    self.record.write(self.folder)


def _blank_input(config: Config, backbone: Backbone, frames: int | None) -> torch.Tensor:
    """One image (1, 3, H, W), or one clip (1, T, 3, H, W), as it is tested."""
    clip = () if frames is None else (frames,)
    canvas = task_class(config.task).tested_canvas(config, backbone.facts)
    return torch.zeros(1, *clip, 3, *canvas, dtype=torch.uint8)
