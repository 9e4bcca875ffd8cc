"""Voices that appear, change and go while jobs run: no job hears half a file, or one that is no longer there."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.types import SAMPLE_RATE, Audio
from tests.unit.worker.workers import Worker, clip_bytes, working, write_clip

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


async def test_a_clip_is_read_up_to_five_minutes(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        write_clip(worker.voices / "long.wav", 303)
        assert await heard(worker, "long.wav") == 300 / STEP_S


@settings(max_examples=5, deadline=None)
@given(lengths=st.lists(st.integers(8, 40), min_size=6, max_size=12), data=st.data())
def test_readers_racing_a_writer_hear_only_whole_and_present_files(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    """Each job hears a version that was there at some time between its start and its end, or that there was none."""
    deletes = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    folder = tmp_path_factory.mktemp("race")
    #: What was there (None: nothing), from when on; the change happens between the two times.
    history: list[tuple[float, float, int | None]] = [(0.0, 0.0, None)]

    def change(steps: int | None, path: Path) -> None:
        before = time.monotonic()
        path.unlink() if steps is None else publish(path, steps)
        history.append((before, time.monotonic(), steps))

    def write(path: Path, done: threading.Event) -> None:
        for steps, delete in zip(lengths, deletes, strict=True):
            change(steps, path)
            time.sleep(0.01)
            if delete:
                change(None, path)
        done.set()

    async def read(worker: Worker, name: str, done: threading.Event) -> list[tuple[float, float, int | None]]:
        seen = []
        while not done.is_set() or not seen:
            started = time.monotonic()
            answer = await worker.whole(text="Hello.", speaker_voice=name, session_id=f"{started}-{name}")
            heard_ = None if "error" in answer else round(answer["metadata"]["duration"] / STEP_S)
            if "error" in answer:
                assert answer["error"] == f"speaker_voice '{name}' not found."
            seen.append((started, time.monotonic(), heard_))
        return seen

    async def race(worker: Worker) -> list[tuple[float, float, int | None]]:
        done = threading.Event()
        thread = threading.Thread(target=write, args=(worker.voices / "v.wav", done))
        thread.start()
        try:
            parts = await asyncio.gather(*(read(worker, "v.wav", done) for _ in range(3)))
        finally:
            thread.join()
        return [each for part in parts for each in part]

    with working(folder, jobs=3) as worker:
        # The sound of a job is as long as the clip of its voice, so that every answer tells what was heard.
        worker.engine.script.audio_s_per_char = 1.0
        worker.engine.script.render = lambda utterance, block, count: _as_long_as(utterance.voice, count)
        for started, ended, steps in asyncio.run(race(worker)):
            assert steps in present(history, started, ended), (steps, present(history, started, ended))
    shutil.rmtree(folder)


def present(history: list[tuple[float, float, int | None]], started: float, ended: float) -> set[int | None]:
    """The versions that were there at some time within the span."""
    ends = [change[1] for change in history[1:]] + [float("inf")]
    return {steps for (before, _, steps), end in zip(history, ends, strict=True) if before <= ended and end >= started}


def _as_long_as(voice: object, count: int) -> Audio:
    return np.full(voice.samples, 0.3, np.float32)[:count]  # type: ignore[attr-defined]
