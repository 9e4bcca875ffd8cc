"""Worker threads for a CPU, one per core: each utterance is computed by one core, several utterances by several."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class CoreThreads:
    """Worker threads that compute with torch, one per core.

    For small models: with several threads per operation, most of the time goes into synchronising them. One core also
    rounds the same way whatever the other cores do and however many there are.

    Sets torch's own thread count to one for the whole process (``torch.set_num_threads(1)``), for the same reason.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="echo-core")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run a function on one core."""
        return self._pool.submit(work)

    def close(self) -> None:
        """End each thread after its current work; returns at once, because that work may hang."""
        self._pool.shutdown(wait=False)


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
