"""Batch norm of pooled features, of which a batch has one row an image."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureNorm(nn.BatchNorm1d):
    """As torch's, but over the batch of all processes, and with an answer for a batch of one row.

    So several processes compute what one would. One row has no variance, where torch's own layer stops: it is
    normalised by the statistics kept, and leaves them as they are. An epoch's last batch may be such.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Rows (B, C), normalised by channel."""
        if not self.training:
            return super().forward(input)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return self._of_all_processes(input)
        return self._by_statistics(input) if len(input) == 1 else super().forward(input)

    def _by_statistics(self, rows: Tensor) -> Tensor:
        return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _of_all_processes(self, rows: Tensor) -> Tensor:
        """As in one process, to rounding; gradients pass through the shared mean and variance."""
        with torch.autocast(rows.device.type, enabled=False):
            x = rows.float()
            count = _summed(x.new_tensor(float(len(x))))
            mean = _summed(x.sum(0)) / count
            variance = _summed((x - mean).square().sum(0)) / count
            if count == 1:
                return self._by_statistics(x)
            with torch.no_grad():
                kept: list[Any] = [self.running_mean, self.running_var, self.num_batches_tracked]
                kept[0].lerp_(mean, self.momentum)
                kept[1].lerp_(variance * count / (count - 1), self.momentum)
                kept[2] += 1
            x = (x - mean) * (variance + self.eps).rsqrt()
            return x if self.weight is None else x * self.weight + self.bias


def _summed(values: Tensor) -> Tensor:
    """The sum over all processes, through which gradients pass."""
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(values)
    return total
