"""Voices that appear, change and go while jobs run: no job hears half a file, or one that is no longer there."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.types import SAMPLE_RATE, Audio, Utterance
from tests.bucket import open_bucket
from tests.unit.worker.workers import Worker, clip_bytes, until, working, write_clip

pytestmark = pytest.mark.slow

#: A clip is known by its length: this many steps of 50 ms.
STEP_S = 0.05


def publish(path: Path, steps: int) -> None:
    """Write a clip as the contract asks of writers: under another name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    data = clip_bytes(steps * STEP_S)
    with draft.open("wb") as file:  # in two parts: whoever reads the draft hears half a voice
        file.write(data[: len(data) // 2])
        file.flush()
        file.write(data[len(data) // 2 :])
    os.replace(draft, path)


async def heard(worker: Worker, name: str) -> int | str:
    """The steps of the clip that a job with this voice is spoken with, or the job's error."""
    answer = await worker.whole(text=f"Hello {time.monotonic_ns()}.", speaker_voice=name)
    if "error" in answer:
        return str(answer["error"])
    text = [each for each in worker.engine.script.spoken if each.voice is not None][-1]
    assert text.voice is not None
    return round(text.voice.samples / SAMPLE_RATE / STEP_S)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["anna.wav", "sub/folder/anna.wav"])
async def test_a_voice_is_there_with_the_next_job_and_gone_with_the_next(tmp_path: Path, name: str) -> None:
    with working(tmp_path) as worker:
        gone = f"speaker_voice '{name}' not found."
        assert await heard(worker, name) == gone
        for steps in (10, 20, 20, 15):
            publish(worker.voices / name, steps)
            assert await heard(worker, name) == steps
        (worker.voices / name).unlink()
        assert await heard(worker, name) == gone


async def test_half_written_files_are_no_voices(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        write_clip(worker.voices / "a.wav.tmp")
        write_clip(worker.voices / "a.tmp.wav")
        assert await heard(worker, "a.tmp.wav") == "speaker_voice 'a.tmp.wav' not found."
        assert str(await heard(worker, "a.wav.tmp")).startswith("Unsupported speaker_voice extension '.tmp'")


@pytest.mark.slow
async def test_a_clip_is_read_up_to_five_minutes(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        write_clip(worker.voices / "long.wav", 303)
        assert await heard(worker, "long.wav") == 300 / STEP_S


async def test_a_voice_that_is_not_here_is_fetched_from_below_the_base_url(tmp_path: Path) -> None:
    with open_bucket() as bucket:
        bucket.put("far.wav", clip_bytes(10 * STEP_S))
        server = {"voice_base_url": bucket.url, "cache_dir": tmp_path / "cache"}
        with working(tmp_path, server=server) as worker:
            publish(worker.voices / "anna.wav", 20)
            assert await heard(worker, "far.wav") == 10
            assert await heard(worker, "anna.wav") == 20
            assert await heard(worker, "nobody.wav") == "speaker_voice 'nobody.wav' not found."
            assert await heard(worker, "../far.wav") == "speaker_voice '../far.wav' not found."
            assert str(await heard(worker, "far")).startswith("Unsupported speaker_voice extension ''")
            assert bucket.of("far") == ["far.wav"]
            assert bucket.of("anna") == []


@dataclass(frozen=True)
class Change:
    """What the writer does next: publish a clip of that many steps (None: delete), then let some jobs end."""

    steps: int | None
    jobs: int


changes = st.builds(Change, st.none() | st.integers(8, 60), st.integers(0, 5))
#: When a version came, between two times, and what it was.
History = list[tuple[float, float, int | None]]


class Race:
    """Three readers run jobs with a voice while a writer changes it; both note when they did what."""

    def __init__(self, worker: Worker, plan: list[Change]) -> None:
        self.worker, self.plan = worker, plan
        self.written: History = [(0.0, 0.0, None)]
        self.heard: History = []
        self.over = False

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        await self.worker.whole(text="Hello.")  # the model is loaded
        writer = asyncio.create_task(self._write(self.worker.voices / "v.wav"))
        await asyncio.gather(writer, *(self._read(f"job-{number}") for number in range(3)))

    async def _write(self, path: Path) -> None:
        for change in self.plan:
            before = time.monotonic()
            if change.steps is None:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            else:
                await asyncio.to_thread(publish, path, change.steps)
            self.written.append((before, time.monotonic(), change.steps))
            await self._wait_for(change.jobs)
        self.over = True

    async def _wait_for(self, jobs: int) -> None:
        enough = len(self.heard) + jobs
        await until(lambda: len(self.heard) >= enough)

    async def _read(self, session: str) -> None:
        while not self.over:
            before = time.monotonic()
            answer = await self.worker.whole(text="Hello.", speaker_voice="v.wav", session_id=session)
            steps = None
            if answer["status"] == "completed":
                steps = round(answer["metadata"]["duration"] / STEP_S)
            else:
                assert answer["error"] == "speaker_voice 'v.wav' not found."
            self.heard.append((before, time.monotonic(), steps))


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(plan=st.lists(changes, min_size=5, max_size=10))
def test_readers_racing_a_writer_hear_only_whole_and_present_files(
    tmp_path_factory: pytest.TempPathFactory, plan: list[Change]
) -> None:
    """Each job hears a version that was there at some time between its start and its end, or that there was none."""
    folder = tmp_path_factory.mktemp("race")
    with working(folder, jobs=3) as worker:
        # The sound of a job is as long as the clip of its voice, so that every answer tells what was heard.
        worker.engine.script.audio_s_per_char = 1.0
        worker.engine.script.render = _as_long_as
        race = Race(worker, plan)
        race.run()
    for started, ended, steps in race.heard:
        assert steps in present(race.written, started, ended)
    shutil.rmtree(folder)


def present(history: History, started: float, ended: float) -> set[int | None]:
    """The versions that were there at some time within the span."""
    ends = [change[1] for change in history[1:]] + [float("inf")]
    return {steps for (before, _, steps), end in zip(history, ends, strict=True) if before <= ended and end >= started}


def _as_long_as(utterance: Utterance, block: int, count: int) -> Audio:
    length = utterance.voice.samples if utterance.voice is not None else SAMPLE_RATE  # type: ignore[attr-defined]
    return np.full(length, 0.3, np.float32)[:count]
