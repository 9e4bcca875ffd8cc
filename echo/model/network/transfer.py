"""Copies from the host to a device that do not block the host."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Queue a copy to a device. It goes through pinned memory, else the host would wait for all queued work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def pinned_copy(tensor: Tensor) -> Tensor:
    """A copy on the host, pinned for a CUDA tensor so that copying it back does not block."""
    host = tensor.cpu()
    return host.pin_memory() if tensor.device.type == "cuda" else host
