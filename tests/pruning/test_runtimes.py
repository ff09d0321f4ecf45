"""Latency as a runtime has it, by the clock of this machine."""

import pytest
import torch

from peftbench import backbones, pruning
from peftbench.config import Pruning
from support.pruned import of


@pytest.mark.slow
def test_onnx_runtime_measures_and_the_exported_model_is_quicker():
    from peftbench.pruning.by_latency import Features
    from peftbench.pruning.runtimes import call_of, share_of_time

    given = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    spec = Pruning(name="structured", target="latency:0.6", rounds=1, recovery=0)
    small = pruning.prune_to_latency(backbones.build_with_weights(of("vit_nano")), spec, given, torch.device("cpu"))
    calls = [call_of(Features(b.net), given[:1], "onnx") for b in (small, backbones.build_with_weights(of("vit_nano")))]
    assert share_of_time(*calls, 20)[2] < 0.75


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_efficientformers_attention_is_measured(runtime):
    from timm.models.efficientformer import Attention

    from peftbench.pruning.runtimes import call_of, times_of

    call = call_of(Attention(32, key_dim=8, num_heads=2, resolution=2), torch.randn(1, 4, 32), runtime)
    assert all(seconds > 0 for seconds in times_of({"it": call}, 2)["it"])
