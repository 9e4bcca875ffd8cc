"""The cores of a CPU as places of work: an utterance is computed by one at a time, several utterances by several."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Cores:
    """Runs functions that compute with torch, each on one core.

    For small models: threads that share every operation spend most of their time waiting for one another. And what one
    core computes is rounded the same however many there are and whatever the others do.

    Takes torch's own threads from the whole process (``torch.set_num_threads(1)``), for the same reason.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="echo-core")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Start a function on one core."""
        return self._pool.submit(work)

    def close(self) -> None:
        """End the threads when they have finished what they are at; does not wait for it, as it may hang."""
        self._pool.shutdown(wait=False)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
