"""The runtime on an event loop of its own, in a thread, loaded when it is first needed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from echo.engines.table import EngineLoader
from echo.errors import DeviceStopped, NotReady
from echo.runtime import Runtime, Status
from echo.service import SpeechService
from echo.settings import Settings

T = TypeVar("T")


class Speaker:
    """Loads a model once and speaks for any number of jobs; ``close`` frees the device.

    ``run`` and ``stream`` are called from any event loop and work on the speaker's; ``service`` only there.
    """

    def __init__(self, settings: Settings, load_engine: EngineLoader | None = None) -> None:
        self._settings = settings
        self._load_engine = load_engine
        #: Made at once, so that settings that contradict each other are reported at the start.
        self._runtime = Runtime(settings, load_engine)
        self._entered = False
        self._loop = asyncio.new_event_loop()
        self._entering = asyncio.Lock()
        self._jobs: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="echo-worker-loop", daemon=True)
        self._thread.start()

    @property
    def is_loaded(self) -> bool:
        """True while the model is loaded and speaks."""
        return self._runtime.is_ready

    @property
    def has_failed(self) -> bool:
        """True when the model could not be loaded, or its device has stopped."""
        return self._runtime.status in (Status.FAILED, Status.STOPPED)

    @property
    def needs_new_process(self) -> bool:
        """True when the device has stopped."""
        return self._runtime.is_dead

    async def service(self) -> SpeechService:
        """Return the speech service, once the model is loaded; a load that has failed is tried again.

        Raises NotReady, and why is in the log, as the reason may name folders; DeviceStopped when the device has.
        """
        async with self._entering:
            if self._runtime.status is Status.FAILED:
                await self._runtime.__aexit__(None, None, None)
                self._runtime, self._entered = Runtime(self._settings, self._load_engine), False
            if not self._entered:
                await self._runtime.__aenter__()
                self._entered = True
            runtime = self._runtime
        try:
            await runtime.ready()
        except NotReady as error:
            if runtime.status is Status.STOPPED:
                raise DeviceStopped from error
            raise NotReady("The model could not be loaded; the worker's log says why.") from error
        return runtime.service

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the speaker's loop; cancelling the call cancels it there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._counted(work), self._loop))

    async def stream(self, work: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """Run a generator on the speaker's loop and yield what it yields.

        The work ends with the generator, and with the task that reads it: that may be cancelled while it is at
        something else, and its generator be left to the garbage collector.
        """
        reader = asyncio.get_running_loop()
        items: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

        def hand_over(item: tuple[T] | None) -> None:
            with contextlib.suppress(RuntimeError):  # the reader's loop is closed
                reader.call_soon_threadsafe(items.put_nowait, item)

        async def pump() -> None:
            try:
                async with aclosing(work):
                    async for item in work:
                        hand_over((item,))
            finally:
                hand_over(None)

        pumping = asyncio.run_coroutine_threadsafe(self._counted(pump()), self._loop)
        owner = asyncio.current_task()
        if owner is not None:
            owner.add_done_callback(lambda _: pumping.cancel())
        try:
            while (found := await items.get()) is not None:
                yield found[0]
            await asyncio.wrap_future(pumping)
        finally:
            pumping.cancel()

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the speaker's loop and wait for it, in a thread without a loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Stop, and free the device."""
        if self._loop.is_closed():
            return
        self.run_now(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _counted(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._jobs.add(task)
        try:
            return await work
        finally:
            self._jobs.discard(task)

    async def _leave(self) -> None:
        for task in self._jobs:
            task.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        if self._entered:
            await self._runtime.__aexit__(None, None, None)
