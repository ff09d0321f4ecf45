"""Rules between the sections of a config: what no single key can know. Each raises UserError."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from peftbench.common.errors import UserError, nearest, suggested
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config.messages import meant_value
from peftbench.config.published_names import forms_keep_their_options
from peftbench.config.schema import Config, Data, Pruning
from peftbench.config.starting_head import head_is_worked_out_once
from peftbench.config.task_schema import OFFERED, task_schema

OPTIMIZERS = ("adamw", "sgd", "ftp", "spd")
"""Those of peftbench itself."""


def check_rules(config: Config) -> None:
    """Raises UserError: a combination that cannot work."""
    for rule in RULES:
        rule(config)


def _seeds_are_of_32_bits(config: Config) -> None:
    """More would be cut, and two seeds be one."""
    for key, seed in (("seed", config.seed), ("data.order_seed", config.data.order_seed)):
        if seed is not None and not 0 <= seed < 2**32:
            raise UserError(f"{key}={seed}: expected a whole number from 0 to {2**32 - 1}, such as {key}=0.")


def _weights_are_no_other_word(config: Config) -> None:
    weights = config.backbone.weights
    if (meant := meant_value("backbone.weights", weights)) and not Path(weights).exists():
        raise UserError(
            f"backbone.weights={weights}: there is no such file{suggested(meant)}; give a .safetensors or .pth file, "
            f"or 'hub'."
        )


def _clips_have_frames(config: Config) -> None:
    """Before a method that mixes frames names its own key."""
    frames = config.data.options.get("frames")
    if isinstance(frames, int) and frames < 1:
        raise UserError(f"data.frames={frames}: expected at least 1.")


def _range_has_two_ends(config: Config) -> None:
    limits = config.data.range
    if limits != "auto" and not limits[0] < limits[1]:
        raise UserError(
            f"data.range={list(limits)}: expected the value that is black and a larger one that is white, as in "
            f"data.range=[0,4095]."
        )


def _views_are_augmented(config: Config) -> None:
    if config.taps.views and not config.data.changing:
        raise UserError(
            f"taps.views={config.taps.views}: there is one view without augmentation; give data.augment=flip, say."
        )


def _views_are_of_single_images(config: Config) -> None:
    if config.taps.views and (key := config.data.mixing):
        raise UserError(
            f"{key}: mixes other images in every step, and taps.views={config.taps.views} trains on taps of fixed "
            f"views; leave one of them out."
        )


def _task_takes_the_options_of_the_data(config: Config) -> None:
    takes, defaults = task_schema(vars(config.task)).takes, {f.name: f.default for f in fields(Data)}
    for key in OFFERED:
        value = getattr(config.data, key)
        if key not in takes and value != defaults[key]:
            taken = ", ".join(f"data.{name}" for name in takes)
            hint = f"leave it out (of such keys it takes {taken})" if taken else "leave it out"
            raise UserError(f"data.{key}={value}: is not for task={config.task.name}; {hint}.")


def _eight_bits_are_of_kept_taps(config: Config) -> None:
    if config.taps.dtype is not None and config.taps.mode == "off":
        raise UserError(
            f"taps.dtype={config.taps.dtype}: is of taps that are kept, and taps=off keeps none; leave one of them out."
        )


def _groups_of_classes_are_whole(config: Config) -> None:
    data = config.data
    if data.class_groups is None:
        for key, default in (("class_group", None), ("class_scope", "seen"), ("replay", 0)):
            if (value := getattr(data, key)) != default:
                raise UserError(f"data.{key}={value}: is of groups of classes; give data.class_groups=10, say, too.")
        return
    if data.groups < 2:
        raise UserError(f"data.class_groups={data.class_groups}: expected two groups of classes or more.")
    if data.class_group is not None and data.class_group > data.groups:
        raise UserError(f"data.class_group={data.class_group}: expected 1 to {data.groups}, as data.class_groups has.")
    if data.class_scope == "own" and data.replay:
        raise UserError(
            f"data.replay={data.replay}: data.class_scope=own learns the classes of one group alone; leave one of them "
            f"out."
        )


def _only_taylor_looks_at_images(config: Config) -> None:
    pruning = config.pruning
    looks = pruning.criterion == "taylor" or pruning.target is not None
    if pruning.name != "none" and pruning.images is not None and not looks:
        raise UserError(
            f"pruning.images={pruning.images}: pruning.criterion={pruning.criterion} looks at no images; "
            f"leave it out, or give pruning.criterion=taylor."
        )


def _a_latency_is_of_structured_pruning(config: Config) -> None:
    pruning = config.pruning
    if pruning.name == "none":
        return
    try:
        share = pruning.latency
    except ValueError:
        raise UserError(
            f"pruning.target={pruning.target}: expected latency:SHARE, the share of the whole backbone's latency that "
            f"is to be left, above 0 and below 1, such as latency:0.7."
        ) from None
    if share is None:
        for key in ("runtime", "rounds", "recovery"):
            if (value := getattr(pruning, key)) != getattr(Pruning, key):
                raise UserError(f"pruning.{key}={value}: is of a latency; give pruning.target=latency:0.7, say, too.")
    elif pruning.name != "structured":
        raise UserError(f"pruning.target={pruning.target}: zeros make nothing faster; give pruning=structured.")
    elif pruning.heads:
        raise UserError(
            f"pruning.heads={pruning.heads:g}: pruning.target={pruning.target} chooses how many heads go, as it does "
            f"channels; leave it out."
        )


def _pruning_needs_whole_weights(config: Config) -> None:
    if config.pruning.name == "none":
        return
    if config.backbone.stream or config.trainer.strategy == "fsdp":
        parted = "backbone.stream=true" if config.backbone.stream else "trainer=fsdp"
        raise UserError(f"pruning={config.pruning.name}: needs whole weights in memory, unlike {parted}.")


def _anchored_optimizers_need_whole_tensors(config: Config) -> None:
    if config.optimizer.anchored and config.trainer.strategy == "fsdp":
        raise UserError(
            f"optimizer={config.optimizer.name}: needs whole tensors, which trainer=fsdp has not; use trainer=ddp."
        )


def _optimizer_is_known(config: Config) -> None:
    optimizer = config.optimizer
    if optimizer.library == "timm":
        for key in ("betas", "momentum", "nesterov", "inner"):
            if (value := getattr(optimizer, key)) is not None:
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(
                    f"optimizer.{key}={shown}: is not for optimizer=timm; give +optimizer.args.{key}=… where "
                    f"optimizer.name={optimizer.name} has it."
                )
        return
    if optimizer.name not in OPTIMIZERS:
        raise UserError(
            f"optimizer.name={optimizer.name!r}: expected {', '.join(map(repr, OPTIMIZERS[:-1]))} or "
            f"{OPTIMIZERS[-1]!r}{nearest(optimizer.name, OPTIMIZERS)}; optimizer=timm takes any that timm knows."
        )
    if optimizer.args:
        raise UserError(f"optimizer.args={optimizer.args}: is for optimizer=timm; leave it out.")


def _nesterov_needs_momentum(config: Config) -> None:
    if config.optimizer.nesterov and config.optimizer.momentum == 0:
        raise UserError("optimizer.momentum=0: Nesterov momentum needs some; give optimizer.nesterov=false.")


def _tuning_leaves_test_images_alone(config: Config) -> None:
    if config.data.ood and config.data.stage == "tune":
        raise UserError("data.ood: is tested, and data.stage=tune leaves test images alone; leave one of them out.")


def _augmentation_is_of_the_task(config: Config) -> None:
    known = task_schema(vars(config.task)).augmentations
    of_all_tasks = dict.fromkeys(a for name in shipped_tasks() for a in task_schema({"name": name}).augmentations)
    if config.data.augment not in {*known, *of_all_tasks}:
        *others, last = map(repr, dict.fromkeys([*of_all_tasks, *known]))
        hint = nearest(config.data.augment, [*of_all_tasks, *known])
        raise UserError(f"data.augment={config.data.augment!r}: expected {', '.join(others)} or {last}{hint}.")
    if config.data.augment not in known:
        raise UserError(
            f"data.augment={config.data.augment}: is not for task={config.task.name}; expected {', '.join(known)}."
        )


def _what_is_applied_on_the_device_is_cut(config: Config) -> None:
    data = config.data
    if data.augment_on == "host":
        return
    others = [key for key in ("jitter", "erase", "mixup", "cutmix") if getattr(data, key)]
    if others:
        key = others[0]
        raise UserError(
            f"data.{key}={getattr(data, key)}: is not applied by data.augment_on=device; leave one of them out."
        )
    if config.taps.views:
        raise UserError(
            f"taps.views={config.taps.views}: fixed views are made on the host; leave data.augment_on=device out."
        )
    if data.augment not in ("flip", "crop", "rrc"):
        raise UserError(
            f"data.augment_on=device: applies data.augment=flip, crop or rrc, not data.augment={data.augment}."
        )


def _noise_is_of_consistency(config: Config) -> None:
    trainer = config.trainer
    if trainer.consistency:
        return
    for key, default in (("consistency_noise", 1.0), ("consistency_every", 1)):
        if (value := getattr(trainer, key)) != default:
            raise UserError(
                f"trainer.{key}={value}: does nothing without trainer.consistency, which is 0; give "
                f"trainer.consistency=0.1, say, or leave it out."
            )


def _task_goes_with_the_rest(config: Config) -> None:
    task_schema(vars(config.task)).check(config)


def _several_devices_need_a_strategy(config: Config) -> None:
    trainer = config.trainer
    if trainer.devices * trainer.nodes > 1 and trainer.strategy == "single":
        raise UserError(f"trainer.devices={trainer.devices}: more than one needs trainer=ddp or trainer=fsdp.")


def _streaming_needs_a_file(config: Config) -> None:
    if config.backbone.stream and not config.backbone.pretrained:
        raise UserError(
            "backbone.stream=true: weights are read from a file, and with backbone.pretrained=false there is none; "
            "give one in backbone.weights, or backbone.stream=false."
        )


def _streamed_weights_are_not_sharded(config: Config) -> None:
    if config.backbone.stream and config.trainer.strategy == "fsdp":
        raise UserError(
            "trainer=fsdp: shards the weights that backbone.stream=true leaves in their file; take trainer=ddp."
        )


def _quantized_weights_are_whole_and_frozen(config: Config) -> None:
    key = f"backbone.quantize={config.backbone.quantize}"
    if config.backbone.quantize is None:
        return
    if config.backbone.stream:
        raise UserError(
            f"{key}: keeps all weights in memory, in few bits, and backbone.stream=true leaves them in their file; "
            f"give one of the two."
        )
    if config.pruning.name != "none":
        raise UserError(f"{key}: is of whole backbones; leave it out, or give pruning=none.")
    if config.trainer.strategy == "fsdp":
        raise UserError(f"{key}: trainer=fsdp shards weights in floating point; take trainer=ddp.")


def _a_trial_is_of_some_batches(config: Config) -> None:
    if config.trainer.trial and config.trainer.max_batches is None:
        raise UserError("trainer.trial=true: needs trainer.max_batches=N, the batches of each split that it reads.")


def _half_precision_needs_a_gpu(config: Config) -> None:
    if config.trainer.precision == "16" and config.trainer.accelerator == "cpu":
        raise UserError("trainer.precision='16': half precision needs a GPU; on a CPU use 'bf16' or '32'.")


def _choosing_an_epoch_needs_validation(config: Config) -> None:
    if config.data.stage == "final" and (key := config.trainer.needs_validation):
        raise UserError(
            f"{key}: data.stage=final trains on the validation images too, so that nothing is left to tell epochs "
            f"apart; leave it out, or give data.stage=fit."
        )


def _kept_weights_are_whole(config: Config) -> None:
    trainer = config.trainer
    if trainer.strategy == "fsdp" and (trainer.keep == "best" or trainer.ema is not None):
        key = "trainer.keep=best" if trainer.keep == "best" else f"trainer.ema={trainer.ema}"
        raise UserError(f"{key}: needs whole tensors, which trainer=fsdp has not; use trainer=ddp.")


def _parts_of_a_model_are_whole(config: Config) -> None:
    trainer = config.trainer
    ways = {
        "grad_checkpointing=true": trainer.grad_checkpointing,
        "compile=true": trainer.compile,
        f"micro_batch={trainer.micro_batch}": trainer.micro_batch is not None,
        "accumulate=auto": trainer.accumulate == "auto",
    }
    given = [way for way, on in ways.items() if on]
    if given and trainer.strategy == "fsdp":
        raise UserError(f"trainer.{given[0]}: needs whole blocks, which trainer=fsdp gathers itself; use trainer=ddp.")


def _graphs_are_of_whole_steps(config: Config) -> None:
    trainer = config.trainer
    if not trainer.graphs:
        return
    ways = {
        f"accumulate={trainer.accumulate}": trainer.accumulate != 1,
        f"micro_batch={trainer.micro_batch}": trainer.micro_batch is not None,
        f"strategy={trainer.strategy}": trainer.strategy != "single",
        f"consistency={trainer.consistency}": bool(trainer.consistency),
    }
    if given := [way for way, on in ways.items() if on]:
        raise UserError(
            f"trainer.graphs=true: captures the one loss of a step on one device, unlike trainer.{given[0]}; leave one "
            f"of them out."
        )


def _one_process_chooses_for_itself(config: Config) -> None:
    trainer = config.trainer
    if trainer.accumulate != "auto":
        return
    if trainer.devices * trainer.nodes > 1:
        raise UserError(
            f"trainer.accumulate=auto: looks at the memory of one device, and here are "
            f"{trainer.devices * trainer.nodes}; give trainer.micro_batch=N, the images that each computes at a time."
        )
    if trainer.micro_batch is not None:
        raise UserError(
            f"trainer.accumulate=auto: chooses trainer.micro_batch, and trainer.micro_batch={trainer.micro_batch} is "
            f"given; leave one of them out."
        )


def _a_found_rate_needs_whole_tensors(config: Config) -> None:
    if config.optimizer.find_lr and config.trainer.strategy == "fsdp":
        raise UserError(
            "optimizer.find_lr=true: one process looks for the rate and needs whole tensors, which trainer=fsdp has "
            "not; use trainer=ddp, or give optimizer.lr."
        )


def _a_found_rate_is_of_whole_batches(config: Config) -> None:
    trainer = config.trainer
    if config.optimizer.find_lr and (trainer.micro_batch is not None or trainer.accumulate == "auto"):
        given = "accumulate=auto" if trainer.micro_batch is None else f"micro_batch={trainer.micro_batch}"
        raise UserError(
            f"optimizer.find_lr=true: the search computes whole batches, and trainer.{given} divides them; give "
            f"optimizer.lr, or leave trainer.{given.partition('=')[0]} out."
        )


RULES = (
    _seeds_are_of_32_bits,
    _weights_are_no_other_word,
    _clips_have_frames,
    forms_keep_their_options,
    _range_has_two_ends,
    _views_are_of_single_images,
    _views_are_augmented,
    _eight_bits_are_of_kept_taps,
    _groups_of_classes_are_whole,
    _only_taylor_looks_at_images,
    _a_latency_is_of_structured_pruning,
    _pruning_needs_whole_weights,
    _anchored_optimizers_need_whole_tensors,
    _optimizer_is_known,
    _nesterov_needs_momentum,
    _tuning_leaves_test_images_alone,
    _augmentation_is_of_the_task,
    _task_takes_the_options_of_the_data,
    _what_is_applied_on_the_device_is_cut,
    _noise_is_of_consistency,
    _task_goes_with_the_rest,
    _several_devices_need_a_strategy,
    _streaming_needs_a_file,
    _streamed_weights_are_not_sharded,
    _quantized_weights_are_whole_and_frozen,
    _a_trial_is_of_some_batches,
    _half_precision_needs_a_gpu,
    _choosing_an_epoch_needs_validation,
    _kept_weights_are_whole,
    _parts_of_a_model_are_whole,
    _graphs_are_of_whole_steps,
    _one_process_chooses_for_itself,
    _a_found_rate_needs_whole_tensors,
    _a_found_rate_is_of_whole_batches,
    head_is_worked_out_once,
)
