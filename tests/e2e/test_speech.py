"""The embedded model's speech is speech: level, length, pitch, and the sentence that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from echo.types import SAMPLE_RATE, Audio
from tests.e2e.listening import from_wav, voiced_share, word_distance
from tests.e2e.server_process import ServerProcess
from tests.processes import ROOT
from train.evaluation.measure import CLICK_THRESHOLD, click_score, pitch_hz, rms, speech_span

#: What the reference clips say.
PASSAGE = json.loads((ROOT / "audio_prompts" / "voices.json").read_text(encoding="utf-8"))["tiny_dan"]["text"]
#: As long as the passage, and of the same rhythm.
OTHERS = (
    "A small boat crossed the river at noon. Nobody on the bridge had seen who was in it.",
    "She opened the letter, but there was no name in it. Music was playing in another room.",
    "Green hills lie behind the village. Every morning the farmer walks there with his sheep.",
)
LONG = (
    "Early in the morning the boats come back to the harbour. People stand on the quay and wait for the fish. "
    "Some of them have walked for an hour, and the children carry baskets that are nearly as large as they are. "
    "When the last boat is empty, everybody goes home again, and the harbour is quiet until the next day."
)

Say = Callable[[str, str], Audio]


def clip(voice: str) -> Audio:
    samples, rate = soundfile.read(ROOT / "audio_prompts" / f"{voice}.flac", dtype="float32")
    assert rate == SAMPLE_RATE
    return np.asarray(samples)


@pytest.fixture(scope="module")
def say(running: ServerProcess) -> Say:
    """Speak a text with a voice, once however often it is asked for."""
    made: dict[tuple[str, str], Audio] = {}

    def spoken(text: str, voice: str) -> Audio:
        if (text, voice) not in made:
            answer = running.speak(text, voice=voice)
            assert answer.status_code == 200, answer.text
            made[text, voice] = from_wav(answer.content)
        return made[text, voice]

    return spoken


@pytest.mark.parametrize("voice", ["tiny_dan", "tiny_anna"])
def test_speech_is_about_as_loud_as_the_reference_clip(say: Say, voice: str) -> None:
    assert 0.5 < rms(say(PASSAGE, voice)) / rms(clip(voice)) < 1.5
    assert np.abs(say(PASSAGE, voice)).max() < 1


@pytest.mark.parametrize("text", ["Please leave a message.", PASSAGE, LONG], ids=["short", "passage", "long"])
def test_duration_follows_the_length_of_the_text(say: Say, text: str) -> None:
    # The model was trained on 140 to 190 words a minute, pauses between sentences aside.
    words_per_minute = len(text.split()) / (len(say(text, "tiny_anna")) / SAMPLE_RATE) * 60
    assert 110 < words_per_minute < 220


def test_speech_begins_at_once_and_ends_with_the_sound(say: Say) -> None:
    samples = say(PASSAGE, "tiny_anna")
    span = speech_span(samples, SAMPLE_RATE)
    assert span is not None
    assert span[0] < 0.3
    assert len(samples) / SAMPLE_RATE - span[1] < 0.3


def test_it_is_voiced_like_speech(say: Say) -> None:
    # Noise has no pitch at all, a tone has one everywhere.
    assert 0.4 < voiced_share(say(PASSAGE, "tiny_anna"), SAMPLE_RATE) < 0.95


def test_pitch_follows_the_reference_clip(say: Say) -> None:
    voices = ["tiny_dan", "tiny_eric", "tiny_anna", "tiny_beth"]
    heard = [pitch_hz(say(PASSAGE, voice), SAMPLE_RATE) or 0.0 for voice in voices]
    assert heard == sorted(heard)
    assert heard == pytest.approx([pitch_hz(clip(voice), SAMPLE_RATE) for voice in voices], rel=0.15)


@pytest.mark.parametrize("voice", ["tiny_dan", "tiny_anna"])
def test_a_voice_says_the_sentence_that_its_clip_says_when_it_is_asked_to(say: Say, voice: str) -> None:
    same = word_distance(say(PASSAGE, voice), clip(voice), SAMPLE_RATE)
    other = [word_distance(say(text, voice), clip(voice), SAMPLE_RATE) for text in OTHERS]
    assert same < 0.8 * min(other)


def test_a_sentence_is_recognised_in_another_voice(say: Say) -> None:
    for text in OTHERS:
        distances = {
            known: word_distance(say(text, "tiny_anna"), say(known, "tiny_dan"), SAMPLE_RATE) for known in OTHERS
        }
        assert min(distances, key=lambda known: distances[known]) == text


@pytest.mark.parametrize("text", [PASSAGE, LONG], ids=["blocks", "chunks"])
def test_blocks_and_chunks_are_joined_without_clicks(say: Say, text: str) -> None:
    assert click_score(say(text, "tiny_anna"), SAMPLE_RATE) < CLICK_THRESHOLD


def test_a_long_text_is_spoken_in_chunks_with_pauses_between_them(say: Say) -> None:
    assert len(LONG) > 300
    samples = say(LONG, "tiny_anna")
    assert len(samples) / SAMPLE_RATE > 256 * 2048 / SAMPLE_RATE, "no longer than the model's window"
    # Each third says something.
    for third in np.array_split(samples, 3):
        assert voiced_share(third, SAMPLE_RATE) > 0.4


@pytest.mark.parametrize("text", ["Hello", "[happy] hello", "Good morning"])
def test_a_word_without_an_end_mark_is_spoken(say: Say, text: str) -> None:
    span = speech_span(say(text, "tiny_anna"), SAMPLE_RATE)
    assert span is not None
    assert span[1] - span[0] > 0.2
