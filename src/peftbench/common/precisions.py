"""The arithmetic of each `trainer.precision`."""

from __future__ import annotations

import torch

HALF = {"32": None, "16": torch.float16, "bf16": torch.bfloat16}
