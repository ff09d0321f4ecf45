"""The keys that a run's id has always been a hash of: those of version 0.1.0. This list does not grow.

A key that came later is left out of the id while it has its default, so that runs and sweeps of before keep their ids.
Its default must then never change: two runs of different numbers would have one id.
"""

from __future__ import annotations

FIRST_KEYS: dict[str, tuple[str, ...]] = {
    "method": ("name", "path", "options"),
    "backbone": ("name", "family", "weights", "pretrained", "args", "cfg", "drop_path", "stream"),
    "pruning": ("name", "ratio", "criterion", "images", "scope", "merge", "round_to", "heads"),
    "data": (
        *("name", "path", "tasks", "options", "stage", "batch_size", "eval_batch_size", "size", "interpolation"),
        *("normalize", "augment", "on_error", "memory_gb", "workers", "order_seed", "ood"),
    ),
    "optimizer": (
        *("name", "lr", "weight_decay", "betas", "momentum", "nesterov", "schedule", "warmup", "min_lr", "inner"),
        *("kappa", "gamma_lr", "norm", "exclude"),
    ),
    "trainer": (
        *("accelerator", "devices", "nodes", "strategy", "precision", "epochs", "accumulate", "clip", "max_batches"),
        *("threads", "progress", "checkpoint_seconds"),
    ),
    "taps": ("mode", "views", "max_gb", "memory_gb", "dir"),
}
"""Section -> keys."""

FIRST_TASK_KEYS: dict[str, tuple[str, ...]] = {
    "classification": ("name", "path", "label_smoothing"),
    "detection": (
        *("name", "path", "detector", "weights", "neck", "rpn", "head", "width", "hidden", "rois", "anchor_scale"),
        *("score_threshold", "nms_threshold"),
    ),
}
"""Name of a task -> keys of its section."""

_BOXES = ("min_size", "max_size", "val_images", "val_fraction", "split_seed", "empty", "missing")
_SPT = ("budget", "beta", "rule", "step", "batches", "mode", "choose")
_FOLDER = ("root", "labels", "val_fraction", "test_fraction", "split_seed")
FIRST_OPTIONS: dict[str, tuple[str, ...]] = {
    "peftbench.data.coco.Coco": (*_BOXES, "root"),
    "peftbench.data.coco.CocoFolder": (*_BOXES, "root", "train", "val", "test", "images"),
    "peftbench.data.digits.Digits": (),
    "peftbench.data.digits_det.DigitsDet": (*_BOXES, "images", "canvas", "drawing_seed"),
    "peftbench.data.fashion_mnist.FashionMNIST": ("root", "val_fraction", "split_seed", "download"),
    "peftbench.data.folder.Folder": _FOLDER,
    "peftbench.data.video_folder.VideoFolder": (*_FOLDER, "frames"),
    "peftbench.data.vtab.Vtab": ("task_name", "classes", "root"),
    "peftbench.methods.bitfit.BitFit": (),
    "peftbench.methods.cst.CST": ("reduction", "gate", "gate_init", "norm", "stages", "feedback"),
    "peftbench.methods.ftp.FTP": ("kappa", "gamma_lr", "norm", "exclude"),
    "peftbench.methods.full.Full": (),
    "peftbench.methods.l2sp.L2SP": ("strength", "exclude"),
    "peftbench.methods.linear.Linear": (),
    "peftbench.methods.lora.LoRA": ("rank", "alpha", "dropout", "layers"),
    "peftbench.methods.losa.LoSA": (
        *("rank", "norm", "bias", "mixers", "tap_every", "tap_last", "start", "pooling", "init"),
        "frames",
    ),
    "peftbench.methods.lst.LST": ("reduction", "drop"),
    "peftbench.methods.petah.PETAH": ("rank", "alpha", "rslora", "form", "targets", "ranks", "norms", "bias"),
    "peftbench.methods.spt_adapter.SPTAdapter": (*_SPT, "rank", "alpha", "dropout", "drop_path"),
    "peftbench.methods.spt_lora.SPTLoRA": (*_SPT, "rank", "alpha", "dropout", "drop_path"),
    "peftbench.methods.spt_sparse.SPTSparse": _SPT,
    "peftbench.methods.tpgm.TPGM": ("iterations", "gamma_lr", "norm", "exclude"),
    "peftbench.methods.wise_ft.WiseFT": ("alpha", "exclude"),
}
"""Import path of a class that peftbench ships -> its options."""
