"""A worker without the SDK: its jobs, and an engine that makes sines."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from echo.engines.fake import FakeEngine, FakeScript
from echo.settings import Settings
from echo.types import Audio, EngineInfo
from worker.jobs import Answer, Jobs
from worker.settings import WorkerSettings
from worker.speaker import Speaker

PATIENCE_S = 60.0


class Worker:
    """Jobs with a fake engine, without storage; answers hold the audio unless the settings say otherwise."""

    def __init__(
        self, folder: Path, script: FakeScript | None, info: EngineInfo | None, server: dict[str, Any], **worker: Any
    ) -> None:
        self.voices, self.output = folder / "voices", folder / "output"
        self.voices.mkdir(exist_ok=True)
        self.output.mkdir(exist_ok=True)
        self.engine = FakeEngine(script, info)
        self.settings = Settings(voices_dir=(str(self.voices),), **server)
        self.speaker = Speaker(self.settings, lambda settings, gate: self.engine)
        values = {"inline_audio": True, "output_dir": self.output, **worker}
        self.jobs = Jobs(self.settings, WorkerSettings(**values), self.speaker)

    async def whole(self, **data: Any) -> Answer:
        return await self.speaker.run(self.jobs.whole(data))

    async def stream(self, **data: Any) -> list[Answer]:
        return [message async for message in self.speaker.stream(self.jobs.stream(data))]

    @property
    def open_requests(self) -> int:
        return self.speaker.run_now(self.speaker.service()).admission.open


@contextmanager
def working(
    folder: Path,
    script: FakeScript | None = None,
    info: EngineInfo | None = None,
    server: dict[str, Any] | None = None,
    **worker: Any,
) -> Iterator[Worker]:
    made = Worker(folder, script, info, server or {}, **worker)
    try:
        yield made
    finally:
        made.speaker.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - other threads have no event to wait for
            await asyncio.sleep(0.005)


def write_clip(path: Path, seconds: float = 1.0) -> None:
    """Write a clip of that length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(clip_bytes(seconds))


def clip_bytes(seconds: float) -> bytes:
    phase = 2 * np.pi * 150 / 44_100 * np.arange(round(seconds * 44_100))
    file = io.BytesIO()
    soundfile.write(file, 0.2 * np.sin(phase), 44_100, format="WAV", subtype="PCM_16")
    return file.getvalue()


def pcm(messages: list[Answer]) -> Audio:
    """The audio of a stream's messages, joined."""
    import base64

    data = b"".join(base64.b64decode(each["audio_chunk"]) for each in messages if each["status"] == "streaming")
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768
