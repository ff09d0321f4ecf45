"""Building a backbone from its config: on the meta device for checks and counts, or with its weights."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.models import PretrainedCfg
from torch import nn

from peftbench import config
from peftbench.backbones.backbone import Backbone
from peftbench.backbones.channels import shrink_backbone
from peftbench.backbones.facts import Size
from peftbench.backbones.stream import Blocks, File, Streamed
from peftbench.backbones.weightless import INSTEAD, Weightless
from peftbench.backbones.weights import (
    State,
    Uncopied,
    fetch_weights,
    locate_weights_file,
    pruned_description,
    read_backbone_state,
    read_pruned_state,
)
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.common.foreign_text import first_sentence, shortened


def build_on_meta(spec: config.Backbone, size: Size | None = None) -> Backbone:
    """The backbone on the meta device, without weights or memory: shapes, counts and refusals.

    `size` is that of the input images in pixels; None is the size that the model was trained with.

    Raises:
        UserError: an unknown timm name, or arguments that the model does not take.
        Refusal: the model cannot be built for images of this size.
    """
    _require_known(spec)
    about = _about(spec)
    try:
        with torch.device("meta"):
            return _marked(_shrunk(_wrap(spec, _create(spec, size), size), about), about)
    except NotImplementedError:  # an operator without a form for it (RegNet's under torch 2.6): random weights instead
        return _marked(_shrunk(_wrap(spec, _create(spec, size), size), about), about)


def build_with_weights(spec: config.Backbone, size: Size | None = None) -> Backbone:
    """The backbone with its weights (or random ones, where `pretrained: false` asks for them), on the CPU.

    `size` is as in `build_on_meta`.

    Raises:
        UserError: as `build_on_meta`; or weights that cannot be had, cannot be read, or do not fit this model.
        Refusal: as `build_on_meta`; or `stream: true`, and the model cannot be streamed.
    """
    _require_known(spec)
    if spec.stream:
        return _streamed(spec, size)
    if about := _about(spec):
        return _from_pruned(spec, size, about)
    state = _uncopied(fetch_weights(spec.name, spec.weights)) if spec.pretrained else None
    return _wrap(spec, _create(spec, size, state), size)


def _wrap(spec: config.Backbone, net: Any, size: Size | None) -> Backbone:
    try:
        return Backbone(net, spec.name, spec.family, _input_size(net, size))
    except NotImplementedError:  # not the size's fault: `build_on_meta` has another way
        raise
    except (AttributeError, TypeError, LookupError, ArithmeticError) as problem:
        if not spec.args:
            raise
        raise _built_with_args(spec, problem) from None
    except (RuntimeError, AssertionError, ValueError):  # its forward pass fails at this size
        if size is None:
            raise
        raise _wrong_size(spec, size, "is built for one input size, or for larger images") from None


def _from_pruned(spec: config.Backbone, size: Size | None, about: dict[str, Any]) -> Backbone:
    """The backbone in a file that `pruning.save_pruned` wrote: its shapes are those that were kept."""
    state = read_pruned_state(Path(spec.weights).expanduser())
    whole = _shrunk(_wrap(spec, _create(spec, size), size), about)
    try:
        whole.net.load_state_dict(state)
    except RuntimeError as problem:
        raise UserError(f"backbone.weights={spec.weights}: does not fit {spec.name}: {_mismatch(problem)}") from None
    return _marked(_wrap(spec, whole.net, size), about)


def _about(spec: config.Backbone) -> dict[str, Any]:
    """The description in the file of a pruned backbone; empty for other weights."""
    about = pruned_description(spec.weights) if spec.pretrained else {}
    if about and about["name"].partition(".")[0] != spec.name.partition(".")[0]:
        raise UserError(
            f"backbone.weights={spec.weights}: is {about['name']}, pruned; give backbone.name={about['name']} with it, "
            f"not {spec.name}."
        )
    return about


def _shrunk(backbone: Backbone, about: dict[str, Any]) -> Backbone:
    """Shrinks a whole backbone to as many channels and heads as the file of a pruned one has."""
    if not about or not any(about["kept"].values()):
        return backbone
    channels, heads = ({n: torch.arange(c) for n, c in about["kept"][w].items()} for w in ("channels", "heads"))
    try:
        shrink_backbone(backbone, channels, heads)
    except (IndexError, KeyError, AttributeError, RuntimeError, ValueError) as problem:
        raise UserError(f"backbone.weights: this file does not fit {backbone.facts.name} ({problem}).") from None
    facts = backbone.facts
    return Backbone(backbone.net, facts.name, facts.family, facts.input_size)


def _marked(backbone: Backbone, about: dict[str, Any]) -> Backbone:
    """Notes on the backbone how it was pruned; nothing where it was not."""
    if about:
        backbone.kept, backbone.pruned, backbone.origin = about["kept"], about["pruned"], about["origin"]
        parameters = dict(backbone.net.named_parameters())
        if foreign := [n for n in about["masked"] if n not in parameters]:
            raise UserError(f"backbone.weights: this file masks {foreign[0]}, which {backbone.facts.name} has not.")
        backbone.masks = {n: parameters[n].detach() != 0 for n in about["masked"]}
    return backbone


def _streamed(spec: config.Backbone, size: Size | None) -> Streamed:
    """The backbone whose blocks stay in their file. timm loads it as usual, so that its renaming of weights applies."""
    path = locate_weights_file(spec.name, spec.weights)
    about = _about(spec)
    if any(about.get("kept", {}).values()):
        raise Refusal(
            f"backbone.stream=true: {path} holds a backbone with channels taken out, which is small enough to be in "
            f"memory; {INSTEAD}."
        )
    file, state = File.at(path), _uncopied(read_pruned_state(path) if about else read_backbone_state(path))
    keys = {id(tensor): key for key, tensor in state.items()}
    try:
        facts = build_on_meta(spec, size).facts
        with Weightless() as made, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            net = _create(spec, size, state)
        sources: dict[str, str | torch.Tensor] = {}
        for name, parameter in net.named_parameters(remove_duplicate=False):
            source = made.source(parameter)
            if source is None:
                raise Refusal(f"backbone.stream=true: {path} has no {name} of {spec.name}; {INSTEAD}.")
            sources[name] = keys.get(id(source), source)
        return Streamed(net, spec.name, spec.family, _input_size(net, size), Blocks(net, facts, file, sources))
    except UserError:
        raise
    except Exception as problem:  # whatever a model does with weights that are not there
        reason = first_sentence(problem, 200)
        raise Refusal(f"backbone.stream=true: {spec.name} cannot be streamed ({reason}); {INSTEAD}.") from None


def _uncopied(state: State) -> State:
    return {name: tensor.as_subclass(Uncopied) for name, tensor in state.items()}


def _require_known(spec: config.Backbone) -> None:
    """Raises UserError where timm knows no such model, or no such weights of it."""
    name, _, tag = spec.name.partition(".")
    if not timm.is_model(name):
        models = timm.list_models()
        raise UserError(
            f"backbone.name={spec.name}: timm has no such model{nearest(name, models, complete=True)}; "
            f"timm.list_models() names all {len(models)}."
        )
    tags = [m.partition(".")[2] for m in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise UserError(
            f"backbone.name={spec.name}: timm knows no weights '{tag}' of {name}{nearest(tag, tags, complete=True)}; "
            f"it knows {', '.join(tags) or 'none'}."
        )


def with_classifier(spec: config.Backbone, size: Size | None, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """timm's own model with an untrained classifier of so many classes, and the arguments of `timm.create_model`."""
    spec = replace(spec, drop_path=0.0)
    arguments = {"model_name": spec.name, "num_classes": classes, **_arguments(spec, size)}
    return timm.create_model(**arguments).eval(), arguments


def _arguments(spec: config.Backbone, size: Size | None) -> dict[str, Any]:
    """What the model is made with."""
    base = timm.get_pretrained_cfg(spec.name, allow_unregistered=True) or PretrainedCfg()
    arguments: dict[str, Any] = dict(spec.args)
    if spec.drop_path:
        arguments["drop_path_rate"] = spec.drop_path
    built_for = arguments.get("img_size", spec.cfg.get("input_size", base.input_size)[-1])
    if base.fixed_input_size and size not in (None, built_for):
        arguments["img_size"] = size
    return arguments


def _create(spec: config.Backbone, size: Size | None, state: State | None = None) -> Any:
    overlay = dict(spec.cfg)
    base = timm.get_pretrained_cfg(spec.name, allow_unregistered=True) or PretrainedCfg()
    arguments = _arguments(spec, size)
    classes = 0
    if state is not None:
        # The whole checkpoint is loaded strictly, classifier included, and the classifier is taken off afterwards:
        # with num_classes=0 timm would load loosely and drop what does not fit.
        classes = _classes(state, overlay.get("classifier", base.classifier))
        overlay |= {"state_dict": state, "num_classes": classes, "custom_load": False}
    try:
        net: Any = timm.create_model(
            spec.name,
            pretrained=state is not None,
            pretrained_cfg_overlay=overlay,
            num_classes=classes,
            **arguments,
        )
    except (RuntimeError, KeyError) as problem:
        if isinstance(problem, NotImplementedError) or " meta" in str(problem):
            raise  # from `_streamed`: the model asks for values while it is made without weights
        if state is None:
            if not spec.args:
                raise
            raise _built_with_args(spec, problem) from None
        raise UserError(f"backbone.weights={spec.weights}: does not fit {spec.name}: {_mismatch(problem)}") from None
    except TypeError as problem:
        raise _argument_error(spec, arguments, size, problem) from None
    except AssertionError as problem:
        if size is not None and arguments.get("img_size") == size:
            raise _wrong_size(spec, size, "cannot be built for it") from None
        raise _built_with_args(spec, problem) from None
    except UserError:
        raise
    except Exception as problem:  # a model divides by its arguments, looks them up, …
        if not spec.args:
            raise
        raise _built_with_args(spec, problem) from None
    if not spec.drop_path and "drop_path_rate" not in spec.args:
        _without_drop_path(net)
    if classes:
        net.reset_classifier(0)
    if state is not None:
        net.pretrained_cfg["state_dict"] = None  # else the checkpoint stays in memory
    return net


def _without_drop_path(net: nn.Module) -> None:
    """Some families (Swin, TinyViT, NesT, …) have drop-path of their own by default; `drop_path: 0` means none."""
    for module in net.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0


def _classes(state: State, classifier: Any) -> int:
    """The classes of the classifier that a checkpoint holds, 0 where it holds none."""
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    for name in names:
        for key in (f"{name}.weight", f"{name}.bias"):
            if key in state:
                return state[key].shape[0]
    return 0


def _mismatch(problem: Exception) -> str:
    """torch's list of keys, shortened to what a person needs to see."""
    text = str(problem)
    parts = []
    for kind in ("Missing", "Unexpected"):
        if match := re.search(rf"{kind} key\(s\) in state_dict: (.*?)\.\s", text + " ", re.S):
            keys = re.findall(r'"([^"]+)"', match[1])
            parts.append(f"{len(keys)} {kind.lower()} key(s), such as {', '.join(keys[:3])}")
    shapes = re.findall(
        r"size mismatch for (\S+): .*?(torch\.Size\(\[[^\]]*\]\)).*?(torch\.Size\(\[[^\]]*\]\))", text, re.S
    )
    if shapes:
        name, theirs, ours = shapes[0]
        short = [s.removeprefix("torch.Size(").removesuffix(")") for s in (theirs, ours)]
        parts.append(f"{len(shapes)} of another shape, such as {name} ({short[0]} in the file, {short[1]} expected)")
    return ("; ".join(parts) or first_sentence(text, 200)) + "."


def _argument_error(
    spec: config.Backbone, arguments: dict[str, Any], size: Size | None, problem: TypeError
) -> UserError:
    match = re.search(r"unexpected keyword argument '(\w+)'", str(problem))
    name = match[1] if match else ""
    if name == "img_size" and arguments["img_size"] == size:
        return _wrong_size(spec, size, "is built for one input size")
    if name == "drop_path_rate":
        return Refusal(f"backbone.drop_path={spec.drop_path}: {spec.name} has no drop-path; set backbone.drop_path=0.")
    if name in arguments:
        return UserError(f"backbone.args.{name}: {spec.name} takes no such argument.")
    return _built_with_args(spec, problem)


def _built_with_args(spec: config.Backbone, problem: Exception) -> UserError:
    args = shortened(str(spec.args))
    return UserError(f"backbone.args={args}: {spec.name} cannot be built with them ({first_sentence(problem)}).")


def _wrong_size(spec: config.Backbone, size: Size | None, why: str) -> Refusal:
    base = timm.get_pretrained_cfg(spec.name, allow_unregistered=True) or PretrainedCfg()
    built_for = spec.cfg.get("input_size", base.input_size)[-1]
    shown = list(size) if isinstance(size, tuple) else size
    return Refusal(f"data.size={shown}: {spec.name} {why}; give data.size={built_for}.")


def _input_size(net: Any, size: Size | None) -> Size:
    """The size that the model was built for: its own where it is fixed, else the one asked for, else the weights'."""
    fixed = getattr(getattr(net, "patch_embed", None), "img_size", None)
    built_for = fixed if isinstance(fixed, tuple) else size or net.pretrained_cfg["input_size"][-1]
    if isinstance(built_for, tuple):
        height, width = built_for
        return height if height == width else built_for
    return int(built_for)
