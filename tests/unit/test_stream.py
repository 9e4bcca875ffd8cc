import asyncio
import threading
import time

import numpy as np
import pytest

from echo.errors import EngineFailed, Overloaded
from echo.stream import FrameStream
from echo.types import AudioFrame


def frame(value: float, samples: int = 4) -> AudioFrame:
    return AudioFrame(np.full(samples, value, np.float32), 44_100)


def test_frames_arrive_in_order_and_iteration_ends() -> None:
    stream = FrameStream()
    stream.put(frame(1))
    stream.put(frame(2))
    stream.finish()
    assert [f.samples[0] for f in stream] == [1, 2]
    assert list(stream) == []


def test_a_waiting_thread_is_woken() -> None:
    stream = FrameStream()

    def speak() -> None:
        time.sleep(0.02)
        stream.put(frame(1))
        time.sleep(0.02)
        stream.finish()

    thread = threading.Thread(target=speak)
    thread.start()
    assert len(list(stream)) == 1
    thread.join()


async def test_a_waiting_task_is_woken_from_another_thread() -> None:
    stream = FrameStream()

    def speak() -> None:
        for value in range(5):
            time.sleep(0.005)
            stream.put(frame(value))
        stream.finish()

    thread = threading.Thread(target=speak)
    thread.start()
    got = [f.samples[0] async for f in stream]
    thread.join()
    assert got == [0, 1, 2, 3, 4]


def test_an_error_comes_after_the_frames_already_made() -> None:
    stream = FrameStream()
    stream.put(frame(1))
    stream.finish(Overloaded("busy", retry_after_s=1))
    assert next(stream).samples[0] == 1
    with pytest.raises(Overloaded):
        next(stream)
    with pytest.raises(Overloaded):  # and again: a truncated stream never looks complete
        next(stream)


def test_a_foreign_exception_does_not_show_its_text() -> None:
    stream = FrameStream()
    stream.finish(RuntimeError("/secret/path"))
    with pytest.raises(EngineFailed) as caught:
        next(stream)
    assert "secret" not in caught.value.message


def test_cancel_drops_frames_and_ends_the_consumer() -> None:
    stream = FrameStream()
    stream.put(frame(1))
    stream.cancel()
    stream.put(frame(2))
    assert stream.cancelled
    assert list(stream) == []


async def test_cancel_wakes_a_waiting_task() -> None:
    stream = FrameStream()

    async def consume() -> int:
        return len([f async for f in stream])

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    stream.cancel()
    assert await asyncio.wait_for(task, 60) == 0


def test_only_the_first_finish_counts() -> None:
    stream = FrameStream()
    stream.finish()
    stream.finish(EngineFailed("late"))
    assert list(stream) == []


def test_produced_and_consumed_samples_are_counted() -> None:
    stream = FrameStream()
    stream.put(frame(1, 10))
    stream.put(frame(1, 5))
    assert (stream.produced_samples, stream.consumed_samples) == (15, 0)
    next(stream)
    assert stream.consumed_samples == 10


def test_the_engine_is_told_what_its_consumer_does() -> None:
    calls: list[None] = []
    stream = FrameStream(on_consumer=lambda: calls.append(None))
    stream.put(frame(1))
    assert not calls
    next(stream)
    assert len(calls) == 1
    stream.cancel()
    assert len(calls) == 2


def test_leaving_the_with_block_cancels() -> None:
    with FrameStream() as stream:
        pass
    assert stream.cancelled
