"""The debug setting: the last generation as a file, and timings in the log."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from echo.audio.pcm import from_bytes, to_bytes
from echo.debug import GENERATION_FILE, save_wav
from echo.engines.fake import FakeEngine, FakeScript
from echo.runtime import Runtime
from echo.service import SpeechService
from echo.settings import Settings
from echo.types import SpeechRequest, VoiceRef

NONE = VoiceRef(name="none")


@asynccontextmanager
async def serving(script: FakeScript | None = None, *, debug: bool = True) -> AsyncIterator[SpeechService]:
    engine = FakeEngine(script)
    async with Runtime(Settings(debug_logs=debug), load_engine=lambda settings, gate: engine) as runtime:
        await runtime.ready()
        yield runtime.service


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the file is written by a worker thread
            await asyncio.sleep(0.002)


def timings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "echo.debug"]


async def test_the_last_generation_is_a_wav_file_of_the_joined_audio(here: Path) -> None:
    file = here / "api_generation.wav"
    async with serving() as service:
        plain = await service.open(SpeechRequest(text="And the last one.", voice=NONE, seed=2))
        expected = await plain.collect()
        await until(lambda: file.exists() and file.read_bytes()[44:] == expected)
        await (await service.open(SpeechRequest(text="Another.", voice=NONE, seed=1))).collect()
        await until(lambda: file.read_bytes()[44:] != expected)
        # The file is what the engine made, whatever speed the listener asked for.
        last = await service.open(SpeechRequest(text="And the last one.", voice=NONE, seed=2, speed=2.0))
        await last.collect()
        await until(lambda: file.read_bytes()[44:] == expected)
    assert file.read_bytes()[:4] == b"RIFF"
    assert os.listdir(here) == [GENERATION_FILE.name]


async def test_a_stream_that_is_closed_early_leaves_what_it_had_made(here: Path) -> None:
    async with serving(FakeScript(audio_s_per_char=1.0, block_s=0.01)) as service:
        stream = await service.open(SpeechRequest(text="A long one that nobody hears.", voice=NONE))
        stream.close()
        await until((here / "api_generation.wav").exists)
    assert len(from_bytes((here / "api_generation.wav").read_bytes()[44:])) > 44_100


async def test_the_timings_of_a_request_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "echo.debug")
    async with serving() as service:
        stream = await service.open(SpeechRequest(text="One short line.", voice=NONE))
        await stream.collect()
        assert stream.stats.queue_s is not None
        (await service.open(SpeechRequest(text="One short line.", voice=NONE))).close()
    done, closed = timings(caplog)
    assert done.startswith("timings: queue 0.0")
    assert f"{stream.stats.steps} steps in {stream.stats.blocks} blocks" in done
    assert f"total {stream.stats.total_s:.3f} s" in done
    assert "total -" in closed


async def test_without_the_setting_nothing_is_kept(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "echo.debug")
    async with serving(debug=False) as service:
        await (await service.open(SpeechRequest(text="The first one.", voice=NONE))).collect()
    assert timings(caplog) == []
    assert os.listdir(here) == []


def test_the_file_is_16_bit_mono_at_the_engines_rate(here: Path) -> None:
    import wave

    samples = np.linspace(-1, 1, 1000, dtype=np.float32)
    save_wav(here / "some.wav", [samples[:300], samples[300:]], 44_100)
    with wave.open(str(here / "some.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 44_100)
        assert file.readframes(2000) == to_bytes(samples)


def test_a_file_that_cannot_be_written_is_only_a_warning(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkdir("taken.wav")
    (here / "file").touch()
    save_wav(here / "taken.wav", [np.zeros(10, np.float32)], 44_100)
    save_wav(here / "file" / "some.wav", [np.zeros(10, np.float32)], 44_100)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert sorted(path.name for path in here.iterdir()) == ["file", "taken.wav"]
