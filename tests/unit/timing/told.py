"""Speech that is made up: words as tones, silences between them, and an attention that follows the words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from echo.text.tokenize import encode
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT, Audio, AudioFrame, TextAttention

#: Seconds of a character, and of the silence behind a word that ends with a mark.
CHAR_S, PAUSE_S = 0.06, 0.3
#: Silence in front, and behind the last word.
LEAD_S, TAIL_S = 0.15, 0.4


@dataclass(frozen=True, slots=True)
class Said:
    """A text as it sounds; ``words`` are the seconds of each, without its speaker tag."""

    text: str
    samples: Audio
    attention: TextAttention
    words: list[tuple[float, float]]

    def frames(self, chunk: int, sizes: Sequence[int], *, told: bool = True) -> Iterator[AudioFrame]:
        """The speech in blocks of so many latents."""
        start = 0
        for block, size in enumerate(sizes):
            part = self.attention[start : start + size]
            samples = self.samples[start * SAMPLES_PER_LATENT :][: size * SAMPLES_PER_LATENT]
            start += size
            last = start * SAMPLES_PER_LATENT >= len(self.samples)
            yield AudioFrame(
                samples, SAMPLE_RATE, chunk, block, last, attention=(lambda part=part: part) if told else None
            )
            if last:
                return


def say(text: str) -> Said:
    """Say a text; a tag in front of it is not spoken."""
    spoken = text.removeprefix("[S1] ")
    at, place, seconds = LEAD_S, len(text) - len(spoken), []
    edges: list[tuple[float, float]] = [(0.0, place), (at, place)]  # when, at which byte
    parts = [_silence(LEAD_S)]
    for word in spoken.split(" "):
        length = CHAR_S * len(word)
        seconds.append((at, at + length))
        parts.append(_tone(length))
        at += length
        place += len(word)
        edges.append((at, place))
        pause = PAUSE_S if word[-1] in ".,!?" else 0.0
        parts.append(_silence(pause))
        at += pause
        place += 1
        edges.append((at, place))
    parts.append(_silence(TAIL_S))
    samples = np.concatenate(parts)
    latents = len(samples) // SAMPLES_PER_LATENT
    middles = (np.arange(latents) + 0.5) * SAMPLES_PER_LATENT / SAMPLE_RATE
    places = np.interp(middles, [when for when, _ in edges], [byte for _, byte in edges])
    return Said(text, samples[: latents * SAMPLES_PER_LATENT], attend(1 + places, len(encode(text))), seconds)


def attend(places: npt.NDArray[np.float64], tokens: int) -> TextAttention:
    """Attention to a text at these places, a bell as wide as a token."""
    bell = np.exp(-0.5 * np.square(np.arange(tokens) + 0.5 - places[:, None])) + 1e-5
    found: TextAttention = (bell / bell.sum(1, keepdims=True)).astype(np.float32)
    return found


def _tone(seconds: float) -> Audio:
    count = round(seconds * SAMPLE_RATE)
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(count) / SAMPLE_RATE)).astype(np.float32)


def _silence(seconds: float) -> Audio:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)
