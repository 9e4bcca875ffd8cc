"""What an engine says of its device's memory, which is read on the device thread: a device may hang."""

import threading
from functools import partial

import pytest
import torch

from echo.engines.block import BlockEngine
from echo.engines.load import cuda_memory
from echo.scheduler.policy import Limits
from echo.types import DeviceMemory, EngineInfo
from tests.contract.serving import wait_until
from tests.unit.scheduler.toy_model import ToyModel

INFO = EngineInfo(name="toy", preset_family="echo", sample_rate=44_100, device="cuda", backend="none", license="")


def test_the_memory_of_a_cuda_device_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 100))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
    assert cuda_memory(torch.device("cuda")) == DeviceMemory(allocated=10, reserved=20, free=70, total=100)


def test_it_is_known_once_the_engine_is_warm_and_read_again_after_each_question() -> None:
    free = 70
    threads: set[str] = set()

    def read() -> DeviceMemory:
        threads.add(threading.current_thread().name)
        return DeviceMemory(allocated=10, reserved=20, free=free, total=100)

    engine = BlockEngine(ToyModel(), INFO, Limits(max_jobs=1), memory=read)
    try:
        engine.finish_warm_up()
        assert engine.device_memory() is not None
        free = 5
        wait_until(lambda: (memory := engine.device_memory()) is not None and memory.free == 5)
    finally:
        engine.close()
    assert threads == {"echo-device"}


def test_who_asks_does_not_wait_for_a_device_that_hangs() -> None:
    hangs = threading.Event()
    engine = BlockEngine(ToyModel(), INFO, Limits(max_jobs=1), memory=partial(_hang, hangs))
    try:
        assert engine.device_memory() is None
        assert engine.device_memory() is None
    finally:
        hangs.set()
        engine.close()


def _hang(until: threading.Event) -> DeviceMemory:
    until.wait(60)
    return DeviceMemory(allocated=0, reserved=0, free=0, total=0)
