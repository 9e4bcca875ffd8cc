"""Copies from the host to a device that do not block the host."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Queue a copy to a device. It goes through pinned memory, else the host would wait for all queued work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def upload(values: Tensor, target: Tensor) -> None:
    """Queue a copy of values on the host into a tensor on a device."""
    if target.device.type == "cuda":
        values = values.pin_memory()
    target.copy_(values, non_blocking=True)


def pinned_copy(tensor: Tensor) -> Tensor:
    """A copy on the host; of a CUDA tensor one in pinned memory, only queued: work queued later may read it."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
