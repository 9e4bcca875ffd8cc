"""A job -> its samples: every chunk a request of its own to the service, joined as the old workers did."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from itertools import islice

import numpy as np

from echo.audio.crossfade import CrossfadeJoiner
from echo.service import SpeechService, SpeechStream
from echo.types import Audio, AudioFormat, Encoding, SpeechRequest, VoiceRef
from worker.job import SEED_SPACING, Job

#: Chunks of a file that are spoken at the same time, and share the device's steps.
CHUNKS_AT_A_TIME = 4


def requests(job: Job, service: SpeechService, voice: VoiceRef) -> list[SpeechRequest]:
    """Return what is asked of the service, one request per chunk."""
    return [
        SpeechRequest(
            text=chunk,
            voice=voice,
            format=AudioFormat(encoding=Encoding.F32),
            options=job.options_for(service.engine.info),
            seed=job.seed + index * SEED_SPACING,
            streaming=job.stream,
            emotion=job.emotion,
        )
        for index, chunk in enumerate(job.chunks)
    ]


async def speak(job: Job, service: SpeechService, asked: list[SpeechRequest]) -> AsyncGenerator[Audio]:
    """Yield a job's joined samples at the engine's rate, as they are made.

    Raises what ``SpeechService.open`` does; closing the generator ends all work.
    """
    rate = service.engine.info.sample_rate
    joiner = CrossfadeJoiner(job.joint.rules(rate))
    pause = np.zeros(int(job.joint.pause * rate / 1000), np.float32)
    async with AsyncExitStack() as stack:
        later = iter(asked)
        opened: deque[_Opening] = deque()

        def open_up_to(count: int) -> None:
            for request in islice(later, max(0, count - len(opened))):
                opened.append(_Opening(service, request))
                stack.push_async_callback(opened[-1].close)

        for index in range(len(asked)):
            is_last = index == len(asked) - 1
            # The next chunk of a stream is made while the one before is taken; not earlier, or it would delay that
            # one's start. Nobody listens to a file yet.
            open_up_to(1 if job.stream else CHUNKS_AT_A_TIME)
            stream = await opened.popleft().stream()
            open_up_to(1 if job.stream else CHUNKS_AT_A_TIME - 1)
            async for data in stream:
                yield joiner.feed(np.frombuffer(data, np.float32), is_last=is_last)
            if not is_last:
                yield joiner.feed(pause)
            yield joiner.end_chunk()
        yield joiner.finish()


class _Opening:
    """A request that is being opened, beside whatever else is done."""

    def __init__(self, service: SpeechService, request: SpeechRequest) -> None:
        self._task = asyncio.create_task(service.open(request))

    async def stream(self) -> SpeechStream:
        return await self._task

    async def close(self) -> None:
        """End the request, wherever it is."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and self._task.exception() is None:
            self._task.result().close()
