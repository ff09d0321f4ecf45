"""The table of docs/backbones.md: one model of every timm module, what it is cut into, and which methods refuse it.

`scripts/doc_tables.py` writes it. On the meta device, without weights: a minute or so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

MODELS = {
    "beit": "beit_base_patch16_224",
    "byoanet": "botnet26t_256",
    "byobnet": "repvgg_a0",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_distilled_patch16_224",
    "densenet": "densenet121",
    "dla": "dla34",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_small_patch16_dinov3",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_100",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_base",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "coatnet_nano_rw_224",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "mixer_s32_224",
    "mobilenetv3": "mobilenetv3_small_100",
    "mobilenetv5": "mobilenetv5_300m",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_resnet26",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnety_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_26w_4s",
    "resnest": "resnest14d",
    "resnet": "resnet18",
    "resnetv2": "resnetv2_50x1_bit",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42b",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s1",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11_bn",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41",
    "xcit": "xcit_nano_12_p16_224",
}
"""A small model of each of timm's modules."""


def table() -> str:
    """The table, a row a module."""
    import timm

    heads = ["timm's module", "tried with", "taps", "blocks", "refused"]
    lines = [f"With timm {timm.__version__}:", "", f"| {' | '.join(heads)} |", "|---|---|---|--:|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(sorted(MODELS)))])


def rows(modules: Sequence[str]) -> Iterator[tuple[str, str, str, str, str]]:
    """The cells of each module: its name, the model, taps, number of blocks, and the methods that refuse it.

    Of a model that is refused itself, the reason stands for all three. Whatever else goes wrong is passed on.
    """
    import peftbench
    from peftbench import backbones, config
    from peftbench.common.config_files import names
    from peftbench.runs.build import instantiate

    methods = {
        name: instantiate(peftbench.compose(f"method={name}").method) for name in names("method", [config.CONFIGS])
    }
    for module in modules:
        model = MODELS[module]
        try:
            backbone = backbones.build_on_meta(config.Backbone(model, pretrained=False))
        except peftbench.Refusal as refusal:
            yield module, f"`{model}`", "–", "–", "all: " + str(refusal).partition(": ")[2].partition(";")[0]
            continue
        answers = {name: _answer(method, backbone) for name, method in methods.items()}
        refused = " ".join(f"{name}{mark}" for name, mark in answers.items() if mark is not None)
        yield module, f"`{model}`", _taps(backbone.facts), str(len(backbone.facts.blocks)), refused or "none"


def _answer(method: Any, backbone: Any) -> str | None:
    """What stands behind a method's name: nothing where it refuses, a star where other options would do; else None."""
    import peftbench

    try:
        method.check(backbone)
    except peftbench.Refusal:
        return ""
    except peftbench.UserError:
        return "\\*"
    return None


def _taps(facts: Any) -> str:
    """How many taps there are and of which form."""
    forms = ", ".join(dict.fromkeys(tap.layout for tap in facts.taps))
    return f"the whole output, {forms}" if facts.taps[0].module == "forward_features" else f"{len(facts.taps)} {forms}"
