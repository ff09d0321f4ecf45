"""Fully sharded data parallelism (FSDP2): every process holds a share of each weight."""

from __future__ import annotations

from typing import Any

from peftbench.backbones.facts import WHOLE
from peftbench.training.module import Fit


class Sharded(Fit):
    """`Fit` whose blocks are sharded one by one before the optimizer is built.

    Bytes saved for backward are not counted: the weights, gathered for each block, could not be told from activations.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counts_saved = False
        self.sharded = False

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        if self.sharded:  # testing calls this again
            return
        self.sharded = True
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        net = self.model.backbone.net
        for tap in self.model.backbone.facts.taps:
            if tap.module != WHOLE:
                fully_shard(net.get_submodule(tap.module), mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        for name in ("loss", "evaluate"):
            register_fsdp_forward_method(self.model, name)
