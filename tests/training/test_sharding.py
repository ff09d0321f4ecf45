"""FSDP2: what each process holds of a model."""

from __future__ import annotations

import pytest
import torch.distributed as dist

import peftbench
from peftbench.backbones.build import build_on_meta
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs.build import instantiate
from peftbench.tasks.classification.task import Classification
from peftbench.training.sharding import Sharded


@pytest.fixture
def two_processes():
    """As the first of two, for which torch's own stand-in of a backend exchanges nothing."""
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    dist.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
def test_each_of_two_processes_holds_half_of_vit_g(two_processes, monkeypatch):
    """A billion weights, on the meta device: block by block, so that one block at a time is whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    monkeypatch.setattr(Model, "start", lambda self: {})  # there are no bytes to hash
    config = peftbench.compose(
        "method=full", "backbone=vit_g", "data=digits", "trainer=fsdp", "trainer.accelerator=cpu"
    )
    method = instantiate(config.method)
    backbone = build_on_meta(config.backbone)
    model = Model(backbone, Classification(backbone, ["x"] * 10))
    model.adapted(method.adapt(backbone, Plan()))
    whole = sum(p.numel() for p in model.parameters())
    assert whole > 1e9
    module = Sharded(model, method, config, {}, "an-id")
    module._device_mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",))
    module.configure_model()
    parameters = list(model.parameters())
    assert all(isinstance(p, DTensor) for p in parameters)
    assert sum(p.to_local().numel() for p in parameters) == pytest.approx(whole / 2, rel=1e-3)
    blocks = [m for m in backbone.net.modules() if isinstance(m, FSDPModule)]
    assert len(blocks) == len(backbone.facts.taps) == 40
    assert max(sum(p.numel() for p in block.parameters()) for block in blocks) < whole / 30
