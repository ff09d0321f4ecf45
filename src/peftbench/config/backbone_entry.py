"""What `backbone.args` and `backbone.cfg` may say of a timm model: how it is built, never where its weights come from.

A config may be a stranger's: timm would load the file, or ask the hub for the repository, that one of these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config.messages import shown

_WEIGHTS = "says where weights come from, as backbone.weights alone does; give backbone.weights=FILE, or hub"
_ARGS = {
    "pretrained": "is for backbone.pretrained to say; give backbone.pretrained=true or false",
    **dict.fromkeys(
        (
            "cache_dir",
            "checkpoint_path",
            "default_cfg",
            "file",
            "hf_hub_filename",
            "hf_hub_id",
            "pretrained_custom_load",
            "pretrained_filter_fn",
            "pretrained_strict",
            "source",
            "state_dict",
            "url",
        ),
        _WEIGHTS,
    ),
    **dict.fromkeys(
        ("feature_cfg", "features_only", "out_indices"),
        "gives another model than the classifier, which peftbench takes the maps from by itself; leave it out",
    ),
    "num_classes": "is as many as the data have classes; leave it out",
    **dict.fromkeys(
        ("exportable", "kwargs_filter", "model_cls", "model_name", "no_jit", "scriptable", "variant"),
        "is of timm's own way to build models, and no argument of one; leave it out",
    ),
}
_CFG = (
    "classifier",
    "crop_mode",
    "crop_pct",
    "fixed_input_size",
    "first_conv",
    "input_size",
    "interpolation",
    "mean",
    "min_input_size",
    "num_classes",
    "pool_size",
    "std",
    "test_crop_pct",
    "test_input_size",
    "test_pool_size",
)
_CFG_OF_WEIGHTS = (
    "architecture",
    "custom_load",
    "file",
    "hf_hub_filename",
    "hf_hub_id",
    "source",
    "state_dict",
    "tag",
    "url",
)
_FILTERS = ("bicubic", "bilinear", "nearest", "lanczos")


def check_backbone_entry(args: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
    """Raises UserError: a key that leads to other weights, or that peftbench sets itself; a `cfg` of another form."""
    for key, value in args.items():
        why = _WEIGHTS if key.startswith("pretrained_cfg") else _ARGS.get(key)
        if why:
            raise UserError(f"backbone.args.{key}={shown(value)}: {why}.")
    if args.get("in_chans", 3) != 3:
        raise UserError(
            f"backbone.args.in_chans={shown(args['in_chans'])}: images are read in three channels, grey ones too; "
            f"leave it out."
        )
    for key, value in cfg.items():
        if key in _CFG_OF_WEIGHTS:
            raise UserError(f"backbone.cfg.{key}={shown(value)}: {_WEIGHTS}.")
        if key not in _CFG:
            raise UserError(f"backbone.cfg.{key}: there is no such key; known here: {', '.join(_CFG)}.")
        if expected := _expected(key, value):
            raise UserError(f"backbone.cfg.{key}={shown(value)}: expected {expected}.")


def _expected(key: str, value: Any) -> str:
    """What a key of `cfg` should hold, where it holds another thing; else an empty string."""
    if key in ("mean", "std") and not (_are_numbers(value, 3) and (key == "mean" or min(value) > 0)):
        return "three numbers" + (" above 0" if key == "std" else "") + f", such as backbone.cfg.{key}=[0.5,0.5,0.5]"
    if key in ("input_size", "test_input_size", "min_input_size") and not (_are_sizes(value, 3) and value[0] == 3):
        return f"channels, height and width, such as backbone.cfg.{key}=[3,224,224]"
    if key.endswith("pool_size") and value is not None and not _are_sizes(value, 2):
        return f"height and width, such as backbone.cfg.{key}=[7,7]"
    if key == "interpolation" and value not in _FILTERS:
        return f"one of {', '.join(_FILTERS)}"
    if key.endswith("crop_pct") and value is not None and not (_is_number(value) and value > 0):
        return f"a share above 0, such as backbone.cfg.{key}=0.9"
    if key == "fixed_input_size" and not isinstance(value, bool):
        return "true or false"
    if key == "num_classes" and not (_is_size(value) or value == 0):
        return "a whole number"
    if key in ("classifier", "first_conv") and not _is_name(value):
        return "the name of a layer"
    return ""


def _is_name(value: Any) -> bool:
    names = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return all(name is None or isinstance(name, str) for name in names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1e6


def _are(value: Any, number: int) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == number


def _are_numbers(value: Any, number: int) -> bool:
    return _are(value, number) and all(map(_is_number, value))


def _are_sizes(value: Any, number: int) -> bool:
    return _are(value, number) and all(map(_is_size, value))
