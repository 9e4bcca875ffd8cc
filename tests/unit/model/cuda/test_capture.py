"""Capturing a CUDA graph on a stand-in for torch.cuda: what a failed capture leaves behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from echo.model.cuda.capture import CudaGraphs, uncaptured

pytestmark = pytest.mark.slow

DEVICE = torch.device("cuda", 0)


class Cuda:
    """Streams, graphs and memory pools of a device, without the device."""

    def __init__(self) -> None:
        self.stream = "main"
        self.invalid = False
        self.begins = True
        self.cached = 0
        self.streams = 0
        self.open_pools: list[int] = []
        self.pools = 0
        self.modes: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        cuda = self

        class Stream:
            def __init__(self) -> None:
                cuda.streams += 1

            def wait_stream(self, other: object) -> None:
                pass

        class Graph:
            def capture_begin(self, pool: int, capture_error_mode: str) -> None:
                assert not cuda.cached, "nothing that is cached can be had back during a capture"
                cuda.open_pools.append(pool)
                if not cuda.begins:
                    raise RuntimeError("CUDA error: out of memory")
                cuda.modes.append(capture_error_mode)
                self.pool = pool

            def capture_end(self) -> None:
                if cuda.invalid:
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
                cuda.open_pools.remove(self.pool)

            def replay(self) -> None:
                pass

        class Using:
            def __init__(self, stream: object) -> None:
                pass

            def __enter__(self) -> None:
                self.before, cuda.stream = cuda.stream, "side"

            def __exit__(self, *error: object) -> None:
                cuda.stream = self.before

        def empty_cache() -> None:
            cuda.cached = 0

        def handle() -> int:
            self.pools += 1
            return self.pools

        main = Stream()
        self.streams = 0
        for name, value in {
            "Stream": Stream,
            "CUDAGraph": Graph,
            "stream": Using,
            "device": lambda device: contextlib.nullcontext(),
            "current_stream": lambda: main,
            "empty_cache": empty_cache,
            "synchronize": lambda: None,
            "graph_pool_handle": handle,
        }.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(
            torch._C, "_cuda_endAllocateToPool", lambda device, pool: cuda.open_pools.remove(pool), raising=False
        )


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    found = Cuda()
    found.install(monkeypatch)
    return found


def fails_in_call(number: int) -> Callable[[], Tensor]:
    calls = 0

    def run() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == number:
            raise RuntimeError("not permitted when the stream is capturing")
        return torch.ones(1)

    return run


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_function_that_fails_leaves_the_stream_and_the_allocator_as_they_were(call: int, cuda: Cuda) -> None:
    graphs = CudaGraphs(DEVICE)
    with pytest.raises(RuntimeError, match="not permitted"):
        graphs(fails_in_call(call))
    assert cuda.stream == "main"
    assert cuda.open_pools == []


def test_a_capture_that_became_invalid_does_so_too_and_the_next_has_a_fresh_pool(cuda: Cuda) -> None:
    graphs = CudaGraphs(DEVICE)
    cuda.invalid = True
    with pytest.raises(RuntimeError, match="during capture"):
        graphs(lambda: torch.ones(1))
    assert cuda.stream == "main"
    assert cuda.open_pools == []
    cuda.invalid = False
    out = graphs(lambda: torch.ones(1))
    assert torch.equal(out(), torch.ones(1))
    assert cuda.pools == 2


def test_a_capture_that_does_not_begin_does_so_too(cuda: Cuda) -> None:
    cuda.begins = False
    with pytest.raises(RuntimeError, match="out of memory"):
        CudaGraphs(DEVICE)(lambda: torch.ones(1))
    assert cuda.stream == "main"
    assert cuda.open_pools == []


def test_what_the_first_runs_have_left_is_free_for_the_capture_and_for_the_next_ones(cuda: Cuda) -> None:
    def run() -> Tensor:
        cuda.cached += 1
        return torch.ones(1)

    graphs = CudaGraphs(DEVICE)
    for _ in range(3):
        graphs(run)
    assert cuda.streams == 1  # memory is cached per stream


def test_captures_share_a_pool_and_let_other_threads_use_the_device(cuda: Cuda) -> None:
    graphs = CudaGraphs(DEVICE)
    for _ in range(3):
        graphs(lambda: torch.ones(1))
    assert cuda.pools == 1
    assert set(cuda.modes) == {"thread_local"}


def test_without_graphs_the_function_is_warm_and_runs_as_it_is() -> None:
    calls: list[Any] = []

    def run() -> Tensor:
        calls.append(None)
        return torch.ones(1)

    replay = uncaptured(run)
    assert len(calls) == 1
    replay()
    assert len(calls) == 2
