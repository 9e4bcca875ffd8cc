"""Records a speaker saying a text: levelled, trimmed, at the corpus rate, with phone and character times."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import soxr
from numpy.typing import NDArray

from train.tiny.teacher.espeak import Espeak, Tuning
from train.tiny.teacher.flite import Flite
from train.tiny.teacher.hibari import Hibari
from train.tiny.teacher.kokoro import Kokoro, Style
from train.tiny.teacher.phones import PAUSE, Span, Speech, character_times
from train.tiny.teacher.speakers import HIBARI_RATE, NATIVE_RATE, Speaker
from train.tiny.teacher.world import World

RATE = 22_050
"""Samples per second: half of the codec's 44.1 kHz, so that 1,024 samples are one latent."""
LOUDNESS = 0.085
"""Root mean square of every recording, the level that reference clips are brought to as well."""
LEAD_S, TAIL_S = 0.04, 0.08
"""Silence kept before the first and after the last phone, because the voices ring on a little."""
_FADE_S = 0.01
_PEAK = 0.99


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """One text as spoken.

    Attributes:
        samples: Mono at ``RATE``, float32 ``[n]``, root mean square ``LOUDNESS``.
        phones: The phones in order, pauses included; they cover the take.
        characters: Centre time in seconds of every byte of the text, float32 ``[bytes]``.
    """

    samples: NDArray[np.float32]
    phones: tuple[Span, ...]
    characters: NDArray[np.float32]

    def played(self, speed: float) -> Self:
        """Return the take as a tape recorder plays it ``speed`` times as fast: pitch and resonances rise as well."""
        if speed == 1.0:
            return self
        audio = soxr.resample(self.samples, RATE * speed, RATE, quality="HQ")
        phones = tuple(Span(phone.symbol, phone.start / speed, phone.end / speed) for phone in self.phones)
        return type(self)(_levelled(audio), phones, self.characters / np.float32(speed))


class Studio:
    """The synthesisers and the vocoder, each opened when it is first needed."""

    @cached_property
    def _flite(self) -> Flite:
        return Flite()

    @cached_property
    def _espeak(self) -> Espeak:
        return Espeak()

    @cached_property
    def _kokoro(self) -> Kokoro:
        return Kokoro()

    @cached_property
    def _hibari(self) -> Hibari:
        return Hibari()

    @cached_property
    def _world(self) -> World:
        return World()

    def require(self, speakers: Iterable[Speaker]) -> None:
        """Open what these speakers need.

        Raises:
            TeacherMissing: A synthesiser or the vocoder is not installed.
        """
        opened: dict[str, Callable[[], object]] = {
            "flite": lambda: self._flite,
            "espeak-ng": lambda: self._espeak,
            "kokoro": lambda: self._kokoro,
            "hibari": lambda: self._hibari,
        }
        for speaker in speakers:
            opened[speaker.teacher]()
            if speaker.shift is not None:
                _ = self._world

    def record(self, speaker: Speaker, text: str) -> Take:
        """Let a speaker say an ASCII text.

        Raises:
            TeacherMissing: What this speaker needs is not installed.
            ValueError: The teacher reads something else than the words of the text.
        """
        speech = self._speak(speaker, text)
        samples = speech.samples
        if speaker.shift is not None:
            samples = self._world.shifted(samples, speech.rate, speaker.shift)
        return _cut(samples, speech, text).played(speaker.played)

    def _speak(self, speaker: Speaker, text: str) -> Speech:
        voice = speaker.voice
        if isinstance(voice, Style):
            return self._kokoro.speak(text, voice)
        if isinstance(voice, Tuning):
            return self._espeak.speak(text, voice)
        rate = speaker.words_per_minute / speaker.played
        if speaker.teacher == "hibari":
            return self._hibari.speak(text, rate / HIBARI_RATE)
        return self._flite.speak(text, voice, NATIVE_RATE[voice] / rate)


def _cut(samples: NDArray[np.float64], speech: Speech, text: str) -> Take:
    spoken = [index for index, phone in enumerate(speech.phones) if phone.symbol != PAUSE]
    inside = speech.phones[spoken[0] : spoken[-1] + 1]
    begin, end = inside[0].start - LEAD_S, inside[-1].end + TAIL_S
    first, last = round(begin * speech.rate), round(end * speech.rate)
    piece = np.pad(samples[max(first, 0) : last], (max(-first, 0), max(last - len(samples), 0)))
    audio = soxr.resample(piece, speech.rate, RATE, quality="HQ") if speech.rate != RATE else piece.copy()
    ramp = np.linspace(0.0, 1.0, round(_FADE_S * RATE))
    audio[: len(ramp)] *= ramp
    audio[-len(ramp) :] *= ramp[::-1]
    audio = _levelled(audio)
    phones = (
        Span(PAUSE, 0.0, LEAD_S),
        *(Span(phone.symbol, phone.start - begin, phone.end - begin) for phone in inside),
        Span(PAUSE, end - TAIL_S - begin, end - begin),
    )
    return Take(audio, phones, np.asarray(character_times(text, speech.words) - begin, np.float32))


def _levelled(audio: NDArray[np.floating]) -> NDArray[np.float32]:
    # A peak above full scale is rare at this level; there the whole take is quieter rather than clipped.
    factor = float(min(LOUDNESS / np.sqrt(np.mean(audio**2)), _PEAK / np.abs(audio).max()))
    return np.asarray(audio * factor, np.float32)
