"""Every format holds the same speech, and a seed repeats it."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import numpy as np
import pytest

from echo.types import SAMPLE_RATE, Audio
from tests.e2e.listening import decoded, from_pcm, from_wav
from tests.e2e.server_process import ServerProcess

TEXT = "Good morning."
#: Samples of one frame: files of these formats may only be longer, by what fills their first and last frames.
FRAME: Mapping[str, int] = {"wav": 0, "flac": 0, "opus": 960, "mp3": 1152, "aac": 1024}


def as_pcm(server: ServerProcess, **fields: object) -> bytes:
    return server.speak(TEXT, **{"response_format": "pcm", **fields}).raise_for_status().content


@pytest.fixture(scope="module")
def plain(running: ServerProcess) -> Audio:
    """What every format has to hold."""
    return from_pcm(as_pcm(running))


@pytest.mark.parametrize("name", FRAME)
def test_a_format_decodes_to_the_duration_of_the_samples(server: ServerProcess, plain: Audio, name: str) -> None:
    answer = server.speak(TEXT, response_format=name)
    assert answer.status_code == 200, answer.text
    samples, rate = decoded(answer.content)
    extra = len(samples) - len(plain) / SAMPLE_RATE * rate
    assert -1 <= extra <= 2 * FRAME[name] + 1
    assert np.abs(samples).max() > 0.1


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_a_lossless_file_holds_the_samples_of_pcm(server: ServerProcess, plain: Audio, name: str) -> None:
    samples, rate = decoded(server.speak(TEXT, response_format=name).content)
    assert rate == SAMPLE_RATE
    np.testing.assert_array_equal(samples, plain)


def test_a_seed_repeats_its_audio_and_another_one_does_not(server: ServerProcess) -> None:
    spoken = as_pcm(server, seed=11)
    assert as_pcm(server, seed=11) == spoken
    assert as_pcm(server, seed=12) != spoken


def test_the_seed_that_was_drawn_is_told_and_repeats_the_audio(server: ServerProcess) -> None:
    def speak(seed: int) -> httpx.Response:
        return server.speak(TEXT, response_format="pcm", seed=seed)

    first, second = speak(-1), speak(-1)
    assert first.content != second.content
    assert speak(int(first.headers["X-Seed"])).content == first.content


def test_a_sample_rate_and_a_speed_change_the_number_of_samples(server: ServerProcess, plain: Audio) -> None:
    at_24_khz = len(from_pcm(as_pcm(server, sample_rate=24_000)))
    assert at_24_khz == pytest.approx(len(plain) * 24_000 / SAMPLE_RATE, rel=0.01)
    assert len(from_pcm(as_pcm(server, speed=2.0))) == pytest.approx(len(plain) / 2, rel=0.02)


def test_a_whole_wav_says_how_long_it_is(server: ServerProcess) -> None:
    answer = server.speak(TEXT)
    assert answer.headers["Content-Type"] == "audio/wav"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    seconds = len(from_wav(answer.content)) / SAMPLE_RATE
    assert float(answer.headers["X-Audio-Duration"]) == pytest.approx(seconds, abs=0.001)
