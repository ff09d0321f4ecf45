"""What other tools call things that peftbench has: words of Ultralytics, timm, Lightning, transformers and AutoGluon.

They are suggested and never applied. Nothing is suggested for what peftbench has not: an empty tuple.
"""

from __future__ import annotations

_LR, _EPOCHS, _BATCH = ("optimizer.lr",), ("trainer.epochs",), ("data.batch_size",)
_SIZE, _CLIP, _ACCUMULATE = ("data.size",), ("trainer.clip",), ("trainer.accumulate",)
_PRECISION, _ROOT, _VAL = ("trainer.precision",), ("data.root",), ("data.val_fraction",)
_NAMES: dict[tuple[str, ...], str] = {
    _LR: "learning_rate lr0 base_lr init_lr initial_lr learningrate max_lr peak_lr lr_init",
    ("optimizer.min_lr",): "lrf eta_min final_lr end_lr lr_min",
    ("optimizer.weight_decay",): "wd decay weightdecay l2",
    ("optimizer.warmup",): "warmup_epochs warmup_ratio warmup_steps warmup_t num_warmup_steps",
    ("optimizer.schedule",): "scheduler sched lr_scheduler lr_scheduler_type cos_lr lr_schedule",
    ("optimizer.betas",): "beta1 beta2 adam_beta1 adam_beta2 opt_betas",
    ("optimizer",): "opt optim optimiser",
    _EPOCHS: "num_epochs max_epochs n_epochs nb_epochs num_train_epochs total_epochs",
    ("trainer.max_batches",): "limit_train_batches max_steps num_steps steps_per_epoch",
    _CLIP: "clip_grad grad_clip gradient_clip_val max_grad_norm clip_norm",
    _ACCUMULATE: "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps grad_accum accum_steps accum",
    _PRECISION: "amp fp16 bf16 half mixed_precision dtype amp_dtype torch_dtype",
    ("trainer.accelerator",): "device",
    ("trainer.devices",): "gpus num_gpus n_gpus ngpus gpu nproc_per_node num_devices world_size",
    ("trainer.nodes",): "num_nodes nnodes n_nodes",
    _BATCH: "bs batch batchsize train_batch_size per_device_train_batch_size b",
    ("data.eval_batch_size",): "val_batch_size test_batch_size validation_batch_size per_device_eval_batch_size",
    ("data.workers",): "num_workers dataloader_num_workers n_workers nworkers j",
    ("trainer.graphs",): "cuda_graphs cuda_graph cudagraphs use_cuda_graphs",
    _SIZE: "imgsz img_size image_size input_size img resolution crop_size",
    ("data.augment",): "augmentation augmentations auto_augment aa transforms transform",
    ("data.normalize",): "mean std normalization normalise",
    _ROOT: "data_path dataset_path image_folder images_dir train_dir root_dir imagefolder",
    ("data.labels",): "csv labels_csv annotation_file annotations",
    _VAL: "val_split validation_split val_size val_ratio holdout_frac",
    ("data.test_fraction",): "test_split test_size test_ratio",
    ("data",): "dataset datasets",
    ("data.ood",): "corruptions shifted",
    ("task.label_smoothing",): "smoothing label_smooth",
    ("backbone",): "model arch architecture encoder timm_model",
    ("backbone.name",): "model_name timm_name",
    ("backbone.weights",): "checkpoint initial_checkpoint ckpt checkpoint_path pretrained_weights",
    ("backbone.drop_path",): "drop_path_rate stochastic_depth",
    ("method.rank",): "r lora_r lora_rank",
    ("method.alpha",): "lora_alpha",
    ("method.dropout",): "lora_dropout",
    ("method.layers", "method.targets"): "target_modules",
    ("method",): "peft peft_type peft_method adapter tuner strategy_name",
    ("task.detector",): "detection_head",
    ("taps.mode",): "cache cache_features",
    ("output_dir",): "output out outdir out_dir save_dir log_dir default_root_dir runs_dir",
    ("seed",): "random_seed random_state manual_seed rng",
    ("force",): "exist_ok overwrite",
    ("logger",): "log report_to loggers",
    ("logger.wandb.project",): "wandb_project project_name project",
    ("data.mixup",): "mixup mixup_alpha",
    ("data.cutmix",): "cutmix cutmix_alpha",
    ("data.erase",): "reprob random_erasing erasing random_erase",
    ("data.jitter",): "color_jitter colour_jitter colorjitter",
    ("data.sampler",): "weighted_sampler oversample balanced_sampler",
    ("task.class_weights",): "class_weight pos_weight cls_weights",
    ("task.focal_gamma",): "focal fl_gamma focal_loss",
    ("data.tta",): "test_time_augmentation tta_flip",
    ("task.window",): "sliding_window slide_window",
    ("task.scales",): "multi_scale ms_test img_ratios",
    ("data.resize",): "letterbox keep_ratio crop_pct center_crop",
    (): "patience early_stopping mosaic ema resume name verbose freeze mode path save_period classes",
}
KEYS = {word: keys for keys, words in _NAMES.items() for word in words.split()}
"""Keys of the config."""

ABSENT = {
    "method": "loha lokr qlora vera adalora ia3 boft",
    "data": "mnist cifar10 imagenet food101 cub cars voc places365",
    "trainer": "tpu mps",
}
"""Group -> what is no mistyped choice of it, but another thing. What a choice is called elsewhere its YAML says."""

_SCRATCH = ("random", "scratch", "none", "null", "false", "no", "init", "untrained")
_HALF, _BRAIN = ("fp16", "float16", "half", "16_mixed", "16_true"), ("bfloat16", "bf16_mixed", "bf16_true")
VALUES: dict[str, dict[str, str]] = {
    "backbone.weights": dict.fromkeys(_SCRATCH, "backbone.pretrained=false")
    | dict.fromkeys(("imagenet", "pretrained", "true", "default", "timm"), "backbone.weights=hub"),
    "trainer.accelerator": dict.fromkeys(("cuda", "nvidia", "0"), "trainer.accelerator=gpu"),
    "trainer.precision": dict.fromkeys(_HALF, "trainer.precision=16")
    | dict.fromkeys(_BRAIN, "trainer.precision=bf16")
    | dict.fromkeys(("fp32", "float32", "32_true"), "trainer.precision=32"),
    "trainer.strategy": dict.fromkeys(("auto", "none"), "trainer.strategy=single"),
    "optimizer.schedule": dict.fromkeys(("cos", "cosine_annealing"), "optimizer.schedule=cosine")
    | dict.fromkeys(("none", "off", "fixed"), "optimizer.schedule=constant"),
}
"""Key -> its values, as whole words."""

VERBS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("infer", "inference", "detect", "classify", "label"), ("predict",)),
    **dict.fromkeys(("compare", "results", "table", "summary", "leaderboard", "summarize"), ("report",)),
    **dict.fromkeys(("recommend", "best", "select", "which"), ("choose",)),
    **dict.fromkeys(("ls", "show", "methods", "backbones", "models"), ("list",)),
    **dict.fromkeys(("dry_run", "dryrun", "estimate", "count"), ("plan",)),
    **dict.fromkeys(("cache", "features"), ("taps",)),
    **dict.fromkeys(("dataset", "datasets", "prepare"), ("data",)),
    **dict.fromkeys(("convert", "onnx", "openvino", "executorch", "coreml", "save"), ("export",)),
    **dict.fromkeys(("multitask", "bundle", "merge"), ("share",)),
    **dict.fromkeys(("train", "fit", "run", "finetune", "eval", "evaluate", "test", "tune"), ()),
}

_OUT, _RUN = ("out", "output", "dir"), ("run", "runs", "folders")
OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "checkpoint", "ckpt", "run_folder", "run_dir", "run_id"), _RUN),
    **dict.fromkeys(("input", "source", "image", "imgs", "img", "files"), ("images", "source")),
    **dict.fromkeys(("output", "outfile", "output_file", "save", "save_to", "file", "o"), _OUT),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "folder"), ("out", "dir", "output", "run")),
    **dict.fromkeys(("fmt", "type", "as"), ("format",)),
    **dict.fromkeys(("gpu", "cuda", "accelerator"), ("device",)),
    **dict.fromkeys(("k", "topk", "top"), ("top_k",)),
    **dict.fromkeys(("overwrite", "yes", "exist_ok"), ("force",)),
    **dict.fromkeys(("dataset", "task"), ("data",)),
    **dict.fromkeys(("memory", "mem", "vram"), ("max_memory",)),
    **dict.fromkeys(("time", "minutes"), ("max_minutes",)),
    **dict.fromkeys(("params", "parameters"), ("max_params",)),
    **dict.fromkeys(("conf", "confidence", "min_score"), ("threshold", "score_threshold")),
}
"""Options of verbs."""

OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "md": ("markdown",),
    "tex": ("latex",),
    **dict.fromkeys(("txt", "text", "stdout", "console"), ("terminal",)),
}
"""Values of options of verbs."""
