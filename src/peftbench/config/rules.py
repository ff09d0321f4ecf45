"""Rules between the sections of a config: what no single section can know."""

from __future__ import annotations

from peftbench.common.errors import UserError
from peftbench.config.schema import Config
from peftbench.config.task_schema import task_schema


def _combinations(config: Config) -> None:
    """What no single section can know."""
    trainer, data, optimizer = config.trainer, config.data, config.optimizer
    positive = {
        "trainer.epochs": trainer.epochs,
        "trainer.devices": trainer.devices,
        "trainer.nodes": trainer.nodes,
        "trainer.accumulate": trainer.accumulate,
        "pruning.round_to": config.pruning.round_to,
        "data.batch_size": data.batch_size,
        "data.eval_batch_size": data.eval_batch_size,
        **{
            k: v
            for k, v in (
                ("trainer.max_batches", trainer.max_batches),
                ("trainer.threads", trainer.threads),
                ("data.frames", data.options.get("frames")),  # before a method that mixes them names its own key
            )
            if isinstance(v, int)
        },
    }
    for key, value in positive.items():
        if value < 1:
            raise UserError(f"{key}={value}: expected at least 1.")
    shares = {
        "backbone.drop_path": config.backbone.drop_path,
        "task.label_smoothing": getattr(config.task, "label_smoothing", 0.0),
        "optimizer.warmup": optimizer.warmup,
        "pruning.ratio": config.pruning.ratio,
        "pruning.heads": config.pruning.heads,
    }
    for key, share in shares.items():
        if not 0 <= share < 1:
            raise UserError(f"{key}={share}: expected a share, at least 0 and below 1.")
    if optimizer.lr <= 0:
        raise UserError(f"optimizer.lr={optimizer.lr}: expected a number above 0.")
    for key, amount in {
        "optimizer.weight_decay": optimizer.weight_decay,
        "optimizer.min_lr": optimizer.min_lr,
        "data.workers": data.workers,
        "data.memory_gb": data.memory_gb,
        "taps.views": config.taps.views,
        "taps.max_gb": config.taps.max_gb,
        "taps.memory_gb": config.taps.memory_gb,
    }.items():
        if amount < 0:
            raise UserError(f"{key}={amount}: expected 0 or more.")
    if config.taps.views and data.augment == "none":
        raise UserError(
            f"taps.views={config.taps.views}: there is one view without augmentation; give data.augment=flip, say."
        )
    if trainer.clip is not None and trainer.clip <= 0:
        raise UserError(f"trainer.clip={trainer.clip}: expected a number above 0, or null.")
    if any(not 0 <= beta < 1 for beta in optimizer.betas or ()):
        raise UserError(f"optimizer.betas={list(optimizer.betas or ())}: expected numbers at least 0 and below 1.")
    if optimizer.momentum is not None and not 0 <= optimizer.momentum < 1:
        raise UserError(f"optimizer.momentum={optimizer.momentum}: expected at least 0 and below 1.")
    if not 0 <= optimizer.kappa <= 1:
        raise UserError(f"optimizer.kappa={optimizer.kappa}: expected a number from 0 to 1.")
    if optimizer.gamma_lr <= 0:
        raise UserError(f"optimizer.gamma_lr={optimizer.gamma_lr}: expected a number above 0.")
    pruned = config.pruning.name != "none"
    if pruned and config.pruning.images is not None and config.pruning.criterion != "taylor":
        raise UserError(
            f"pruning.images={config.pruning.images}: pruning.criterion={config.pruning.criterion} looks at no images; "
            f"leave it out, or give pruning.criterion=taylor."
        )
    if pruned and (config.backbone.stream or trainer.strategy == "fsdp"):
        found = "backbone.stream=true" if config.backbone.stream else "trainer=fsdp"
        raise UserError(f"pruning={config.pruning.name}: needs whole weights in memory, unlike {found}.")
    if optimizer.name == "ftp" and trainer.strategy == "fsdp":
        raise UserError("optimizer=ftp: needs whole tensors, which trainer=fsdp has not; use trainer=ddp.")
    if optimizer.nesterov and optimizer.momentum == 0:
        raise UserError("optimizer.momentum=0: Nesterov momentum needs some; give optimizer.nesterov=false.")
    if data.ood and data.stage == "tune":
        raise UserError("data.ood: is tested, and data.stage=tune leaves test images alone; leave one of them out.")
    _sizes(config)
    task_schema(vars(config.task)).check(config)
    if trainer.devices * trainer.nodes > 1 and trainer.strategy == "single":
        raise UserError(f"trainer.devices={trainer.devices}: more than one needs trainer=ddp or trainer=fsdp.")
    if config.backbone.stream and not config.backbone.pretrained:
        raise UserError(
            "backbone.stream=true: weights are read from a file, and with backbone.pretrained=false there is none; "
            "give one in backbone.weights, or backbone.stream=false."
        )
    if config.backbone.stream and trainer.strategy == "fsdp":
        raise UserError(
            "trainer=fsdp: shards the weights that backbone.stream=true leaves in their file; take trainer=ddp."
        )
    if trainer.precision == "16" and trainer.accelerator == "cpu":
        raise UserError("trainer.precision='16': half precision needs a GPU; on a CPU use 'bf16' or '32'.")


def _sizes(config: Config) -> None:
    """What images are made into, which each task does in its own way."""
    data, task = config.data, config.task.name
    augmentations = task_schema(vars(config.task)).augmentations
    for side in (data.size,) if isinstance(data.size, int) else data.size or ():
        if side < 1:
            size = list(data.size) if isinstance(data.size, tuple) else data.size
            raise UserError(f"data.size={size}: expected at least 1.")
    if data.augment not in augmentations:
        raise UserError(f"data.augment={data.augment}: is not for task={task}; expected {', '.join(augmentations)}.")
