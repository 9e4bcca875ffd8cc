"""``echo.load("tiny")``: arrays, frames and files in this process."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import echo
from echo import AudioFormat, Encoding, Speech
from echo.errors import BadRequest, ConfigError, NotReady, VoiceNotFound
from echo.types import Audio
from tests.e2e.listening import decoded, from_wav
from tests.processes import ROOT, eventually
from tests.unit.decoding.test_pool import running
from tests.unit.voices.voice_files import encoded_as, tone

TEXT = "Spoken by a program, not by a server."
CLIPS = ROOT / "audio_prompts"
#: Little to speak, for where it does not matter what.
PRESETS = Path(__file__).with_name("quick_presets.toml")


@pytest.fixture(scope="module")
def speech() -> Iterator[Speech]:
    with echo.load("tiny", voices_dir=(str(CLIPS),)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def spoken(speech: Speech) -> Audio:
    """TEXT, whole, in the default voice, with the seed 1."""
    return speech.speak(TEXT, seed=1)


def open_requests(speech: Speech) -> int:
    return speech._runtime.service.admission.open


def test_speak_returns_samples(speech: Speech) -> None:
    samples = speech.speak(TEXT, voice="tiny_dan", seed=1)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 1 < len(samples) / speech.sample_rate < 5
    assert 0.1 < np.abs(samples).max() < 1


def test_stream_yields_the_same_samples_block_by_block(speech: Speech) -> None:
    frames = list(speech.stream(TEXT, voice="tiny_dan", seed=1))
    assert len(frames) > 1
    np.testing.assert_array_equal(np.concatenate(frames), speech.speak(TEXT, voice="tiny_dan", seed=1))


def test_stream_with_times_yields_the_same_samples_and_every_word_once(speech: Speech, spoken: Audio) -> None:
    pieces = list(speech.stream(TEXT, seed=1, times=True))
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), spoken)
    words = [word for piece in pieces for word in piece.words]
    assert [word.text for word in words] == TEXT.split()
    assert {piece.timestamps_method for piece in pieces} == {"attention"}
    edges = [edge for word in words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    assert all(word.end_s > word.start_s for word in words)
    heard = np.flatnonzero(np.abs(spoken) > 0.02) / speech.sample_rate
    assert words[0].start_s == pytest.approx(heard[0], abs=0.05)
    assert words[-1].end_s == pytest.approx(heard[-1], abs=0.1)
    # They come block by block, not at the end.
    assert pieces[0].words
    assert len(pieces[0].words) < len(words)


def test_the_embedded_model_reads_figures_as_words(speech: Speech, spoken: Audio) -> None:
    figures = speech.speak("Room 12, at 5:30.", seed=1)
    np.testing.assert_array_equal(figures, speech.speak("Room twelve, at five thirty.", seed=1))
    assert len(figures) != len(spoken)


def test_figures_have_times_as_they_were_written(speech: Speech) -> None:
    text = "It took 1,234 people and $5.50."
    words = [word for piece in speech.stream(text, seed=1, times=True) for word in piece.words]
    assert [word.text for word in words] == text.split()
    # Nine syllables take longer than one.
    lengths = {word.text: word.end_s - word.start_s for word in words}
    assert lengths["1,234"] > 2 * lengths["took"]


@pytest.mark.parametrize("text", [".", "*sighs*", "🙂"])
def test_nothing_to_speak_is_a_tenth_of_a_second_of_silence(speech: Speech, text: str) -> None:
    assert speech.speak(text).tolist() == [0.0] * 4410


@pytest.mark.parametrize("encoding", [Encoding.WAV, Encoding.MP3, Encoding.FLAC, Encoding.OPUS])
def test_encode_yields_the_bytes_of_a_file(speech: Speech, spoken: Audio, encoding: Encoding) -> None:
    data = b"".join(speech.encode(TEXT, AudioFormat(encoding=encoding), seed=1))
    samples, rate = decoded(data)
    assert len(samples) / rate == pytest.approx(len(spoken) / speech.sample_rate, abs=0.06)


def test_a_wav_file_is_right_in_its_sizes(speech: Speech, spoken: Audio) -> None:
    data = b"".join(speech.encode(TEXT, AudioFormat(encoding=Encoding.WAV), seed=1))
    assert len(from_wav(data)) == len(spoken)


def test_a_voice_is_a_name_or_a_path_or_the_bytes_of_a_clip(speech: Speech, spoken: Audio) -> None:
    path = CLIPS / "tiny_beth.flac"
    by_name = speech.speak(TEXT, voice="tiny_beth", seed=1)
    np.testing.assert_array_equal(speech.speak(TEXT, voice=path, seed=1), by_name)
    np.testing.assert_array_equal(speech.speak(TEXT, voice=path.read_bytes(), seed=1), by_name)
    assert not np.array_equal(spoken, by_name)


def test_voices_and_engine_are_told(speech: Speech) -> None:
    assert speech.voices() == sorted(path.stem for path in CLIPS.glob("*.flac"))
    assert (speech.info.name, speech.info.device) == ("echo-tiny", "cpu")


def test_dropping_the_iterator_ends_the_generation(speech: Speech) -> None:
    frames = speech.stream(f"{TEXT} " * 20, num_steps=100)
    assert len(list(itertools.islice(frames, 1))) == 1
    assert open_requests(speech) == 1
    del frames
    eventually(lambda: open_requests(speech) == 0, "the slot free again")
    assert len(speech.speak("Again.")) > 0


def test_mistakes_are_typed_and_name_the_argument(speech: Speech) -> None:
    with pytest.raises(BadRequest, match="num_stepps: unknown option"):
        speech.speak(TEXT, num_stepps=3)
    with pytest.raises(BadRequest, match="num_steps"):
        speech.speak(TEXT, num_steps=0)
    with pytest.raises(BadRequest, match="input: must not be empty"):
        speech.speak(" ")
    with pytest.raises(BadRequest, match="preset"):
        speech.speak(TEXT, preset="none of them")
    with pytest.raises(BadRequest, match="speed"):
        speech.speak(TEXT, speed=9.0)
    with pytest.raises(VoiceNotFound, match="nobody"):
        speech.speak(TEXT, voice="nobody")
    with pytest.raises(BadRequest):
        speech.speak(TEXT, voice=b"not an audio file")
    assert open_requests(speech) == 0


def test_a_model_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no-such-model"):
        echo.load(str(tmp_path / "no-such-model"))
    with pytest.raises(ConfigError, match="ECHO_DEVICE"):
        echo.load("tiny", device="abacus")


def test_after_close_it_does_not_speak_any_more() -> None:
    speech = echo.load("tiny", voices_dir=(str(CLIPS),), presets_file=PRESETS)
    unfinished = speech.stream(TEXT)
    next(unfinished)
    speech.close()
    speech.close()
    with pytest.raises(NotReady):
        speech.speak(TEXT)
    del unfinished  # without a complaint: warnings are errors
    gc.collect()


def test_a_clip_is_decoded_in_another_process_that_ends_with_the_model() -> None:
    clip = encoded_as("ogg", "libopus", "7.1", np.repeat(tone(1.0, rate=48_000), 8))
    with echo.load("tiny", voices_dir=(str(CLIPS),), presets_file=PRESETS) as loaded:
        assert len(loaded.speak("Hello.", voice=clip, seed=1)) > 1000
        decoders = loaded._runtime.decoders.pids
        assert decoders
        with pytest.raises(BadRequest, match="voice"):
            loaded.speak("Hello.", voice=b"RIFF0000WAVE" + bytes(5000))
    assert not any(map(running, decoders))
