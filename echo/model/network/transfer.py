"""Copies from the host to a device that wait for nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, behind what is queued there; from pinned memory, or the host would wait for all of it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def kept_on_host(tensor: Tensor) -> Tensor:
    """A copy on the host from which ``copy_`` to its device need not wait."""
    host = tensor.cpu()
    return host.pin_memory() if tensor.device.type == "cuda" else host
