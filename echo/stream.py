"""FrameStream: what every engine returns. A mailbox from the engine's thread to one consumer, sync or async."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from copy import copy
from types import TracebackType

from echo.errors import EchoError, EngineFailed
from echo.types import AudioFrame, UtteranceStats


class FrameStream:
    """Frames of one utterance, handed from the engine's thread to a consumer.

    The engine calls :meth:`put` and, exactly once, :meth:`finish`; it never blocks on the consumer. The consumer
    iterates (``for`` or ``async for``) and may :meth:`cancel` at any time; the engine drops the work at its next
    step. ``consumed_samples`` is the credit by which a scheduler sees how far ahead of its listener a job is.

    ``on_consumer`` is called when the consumer has taken a frame or cancelled, for an engine that would have to look
    otherwise. It runs in the consumer's thread, under the stream's lock, and must neither block nor use the stream.
    """

    def __init__(self, on_consumer: Callable[[], None] | None = None) -> None:
        self.stats = UtteranceStats()
        self._on_consumer = on_consumer
        self._frames: deque[AudioFrame] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._cancelled = False
        self._error: BaseException | None = None
        #: When the consumer cancelled, and who is told how long it took until the engine was done.
        self._cancelled_at: float | None = None
        self._when_freed: Callable[[float], None] | None = None
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.produced_samples = 0
        self.consumed_samples = 0

    # -- engine side ------------------------------------------------------------------------------------------

    def put(self, frame: AudioFrame) -> None:
        """Hand over one frame; a frame for a cancelled stream is dropped."""
        with self._changed:
            if self._cancelled or self._finished:
                return
            self._frames.append(frame)
            self.produced_samples += len(frame.samples)
            self._wake()

    def finish(self, error: BaseException | None = None) -> None:
        """End the stream, with ``error`` raised to the consumer after the frames already handed over."""
        with self._changed:
            if self._finished:
                return
            self._finished = True
            self._error = None if self._cancelled else error
            self._wake()
            cancelled_at, notify = self._cancelled_at, self._when_freed
        if cancelled_at is not None and notify is not None:
            notify(time.monotonic() - cancelled_at)

    @property
    def cancelled(self) -> bool:
        """True once the consumer has gone; the engine checks it at every step."""
        return self._cancelled

    @property
    def finished(self) -> bool:
        """True once the engine has ended the stream."""
        return self._finished

    # -- consumer side ----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Tell the engine to drop this work; idempotent, callable from any thread."""
        with self._changed:
            if not self._cancelled and not self._finished:
                self._cancelled_at = time.monotonic()
            self._cancelled = True
            self._error = None
            self._frames.clear()
            self._wake()
            self._tell()

    def on_freed(self, notify: Callable[[float], None]) -> None:
        """Have ``notify`` called when the engine has dropped cancelled work, with the seconds since ``cancel``.

        It is called in the engine's thread.
        """
        self._when_freed = notify

    def __iter__(self) -> Iterator[AudioFrame]:
        return self

    def __next__(self) -> AudioFrame:
        with self._changed:
            while (frame := self._take()) is None:
                if self._ended():
                    raise StopIteration
                self._changed.wait()
            return frame

    def __aiter__(self) -> AsyncIterator[AudioFrame]:
        return self

    async def __anext__(self) -> AudioFrame:
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if (frame := self._take()) is not None:
                    return frame
                if self._ended():
                    raise StopAsyncIteration
                arrived = asyncio.Event()
                self._waiter = (loop, arrived)
            await arrived.wait()

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    # -- both, under the lock ---------------------------------------------------------------------------------

    def _take(self) -> AudioFrame | None:
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self.consumed_samples += len(frame.samples)
        self._tell()
        return frame

    def _tell(self) -> None:
        if self._on_consumer is not None:
            self._on_consumer()

    def _ended(self) -> bool:
        if isinstance(self._error, EchoError):
            raise copy(self._error)  # the traceback of one that is kept would hold this frame, and so this stream
        if self._error is not None:
            raise EngineFailed("Generation failed.") from self._error  # internals stay in the log
        return self._finished or self._cancelled

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiter is not None:
            loop, arrived = self._waiter
            self._waiter = None
            if not loop.is_closed():
                loop.call_soon_threadsafe(arrived.set)
