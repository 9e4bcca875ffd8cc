"""Capturing functions as CUDA graphs, because launching their kernels takes longer than running them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Captures a function; the returned one replays it into the same output tensor."""


def uncaptured(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Stand in for a capture where graphs are turned off: run the function once, so that it is warm."""
    run()
    return run


class CudaGraphs:
    """Captures functions as CUDA graphs that share one memory pool, so each must be replayed before the next is read.

    A capture that fails raises, and leaves the current stream and the allocator as they were.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        #: One for all captures, because the allocator keeps what is free apart for each stream.
        self._side: torch.cuda.Stream | None = None

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture ``run``; the returned function replays it into the same output tensor."""
        with torch.cuda.device(self._device):
            return self._capture(run)

    def _capture(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self._side is None:
            self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        side = self._side
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiling and lazy initialisation must not be captured
            run()
            run()
        torch.cuda.synchronize()
        gc.collect()
        # What the runs have left in the allocator's cache cannot be had back during a capture.
        torch.cuda.empty_cache()
        pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Not ``torch.cuda.graph``: when the capture has become invalid, it leaves its own stream the current one.
        with torch.cuda.stream(side):
            try:
                # Other threads (pinned copies of audio) must be able to call CUDA meanwhile.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                out = run()
            except BaseException:
                with contextlib.suppress(Exception):
                    graph.capture_end()
                self._end_pool(pool)
                raise
            try:
                graph.capture_end()
            except BaseException:
                self._end_pool(pool)
                raise
        torch.cuda.current_stream().wait_stream(side)
        self._pool = pool

        def replay() -> Tensor:
            with torch.cuda.device(self._device):
                graph.replay()
            return out

        return replay

    def _end_pool(self, pool: Any) -> None:
        """Stop the allocator from serving this thread out of the pool; torch does so only after a valid capture."""
        self._pool = self._side = None
        with contextlib.suppress(Exception):
            torch._C._cuda_endAllocateToPool(self._device.index or 0, pool)
