"""Copies from the host to a device that do not block the host."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
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


class Arriving:
    """A tensor on its way to the host: the copy is queued now, and waited for where it is needed."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = pinned_copy(tensor)
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """The tensor on the host; callable from any thread."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy

    def fetch(self) -> npt.NDArray[np.float32]:
        """The same as an array; for float32."""
        found: npt.NDArray[np.float32] = self.wait().numpy()
        return found
