"""The residual blocks of timm's families: which modules they are, and what is known of them."""

import pytest

from support.backbones import composed, on_meta, spec

BLOCKS = {
    "vit_nano": (8, 8, "blocks.7", "NLC", 128, (8, 8), 1),
    "resnet_nano": (8, 0, "layer4.1", "NCHW", 192, (2, 2), 0),
    "hybrid_nano": (10, 0, "stages.4.1", "NCHW", 80, (2, 2), 0),
}
MORE = {
    "tf_efficientnet_lite0": (16, 0, "blocks.6.0", "NCHW", 320, (7, 7), 0),
    "swin_tiny_patch4_window7_224": (12, 12, "layers.3.blocks.1", "NHWC", 768, (7, 7), 0),
    "convnext_atto": (12, 0, "stages.3.blocks.1", "NCHW", 320, (7, 7), 0),
    "swinv2_tiny_window8_256": (12, 0, "layers.3.blocks.1", "NHWC", 768, (8, 8), 0),  # its norms come last
    "efficientformer_l1": (15, 0, "stages.3.blocks.4", "NLC", 448, (7, 7), 0),
    "vit_small_patch14_reg4_dinov2": (12, 12, "blocks.11", "NLC", 384, (37, 37), 5),
    "deit_tiny_distilled_patch16_224": (12, 12, "blocks.11", "NLC", 192, (14, 14), 2),
    "convit_tiny": (12, 12, "blocks.11", "NLC", 192, (14, 14), 1),
    "fastvit_t8": (10, 0, "stages.3.blocks.1", "NCHW", 384, (8, 8), 0),  # its last convolution is behind them
    "vgg11": (6, 0, "features.20", "NCHW", 512, (7, 7), 0),  # has none: what is tapped
    "pvt_v2_b0": (8, 8, "stages.3.blocks.1", "NLC", 256, (7, 7), 0),
}
ALL = [*BLOCKS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]


@pytest.mark.parametrize("name", ALL)
def test_blocks_are_found(name):
    facts = on_meta(composed(f"backbone={name}").backbone if name in BLOCKS else spec(name)).facts
    count, whole, module, layout, channels, grid, prefix = (BLOCKS | MORE)[name]
    last = facts.blocks[-1]
    assert (len(facts.blocks), sum(block.has_middle for block in facts.blocks)) == (count, whole)
    assert (last.module, last.layout, last.channels, last.grid, last.prefix) == (module, layout, channels, grid, prefix)
    assert len({block.module for block in facts.blocks}) == count


@pytest.mark.slow
def test_class_tokens_that_come_late_are_not_on_the_grid():
    convit = on_meta(spec("convit_tiny", {"depth": 11})).facts.blocks
    assert [(block.shape[0], block.grid, block.prefix) for block in (convit[0], convit[-1])] == [
        (196, (14, 14), 0),
        (197, (14, 14), 1),
    ]


def test_a_map_as_high_as_it_has_channels_has_the_layout_of_the_others():
    swin = {"img_size": 64, "depths": (1, 1), "embed_dim": 16, "num_heads": (2, 2)}
    facts = on_meta(spec("swin_tiny_patch4_window7_224", swin)).facts
    assert facts.taps[0].shape == (16, 16, 16)
    assert [(tap.layout, tap.grid) for tap in facts.taps] == [("NHWC", (16, 16)), ("NHWC", (8, 8))]
    assert [(block.layout, block.channels) for block in facts.blocks] == [("NHWC", 16), ("NHWC", 32)]
