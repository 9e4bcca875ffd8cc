"""The number format of a training step's products."""

from __future__ import annotations

import torch

from echo.engines.load import pick_dtype


def precision(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """Return the context of a step's products: bfloat16 or not, None = what is faster on the device."""
    enabled = pick_dtype(None, device) is torch.bfloat16 if bf16 is None else bf16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
