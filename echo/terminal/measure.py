"""``echo-tts bench``: how soon this machine speaks, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from echo.api import Speech

#: Spoken once to warm up and then measured: an answer, a sentence, a paragraph.
TEXTS = (
    "Yes, of course.",
    "The rain has stopped, and the streets are shining in the evening light.",
    "When the ship came back, nobody was standing on the pier. The captain looked at his watch, then at the sky. It "
    "would be dark in an hour, and there was still a long way to go.",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds until the first samples, in all, and of audio."""

    text: str
    first_s: float
    total_s: float
    audio_s: float

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of audio."""
        return self.total_s / self.audio_s


def measure(
    speech: Speech, *, times: int = 3, voice: str | None = None, clock: Callable[[], float] = time.perf_counter
) -> list[Measured]:
    """Speak every text ``times`` times, one after another, and return the medians."""
    speech.speak(TEXTS[0], voice=voice, seed=0)
    return [_medians([_once(speech, text, voice, seed, clock) for seed in range(times)]) for text in TEXTS]


def _once(speech: Speech, text: str, voice: str | None, seed: int, clock: Callable[[], float]) -> Measured:
    started = clock()
    first, count = 0.0, 0
    for samples in speech.stream(text, voice=voice, seed=seed):
        first = first or clock() - started
        count += len(samples)
    return Measured(text, first, clock() - started, count / speech.sample_rate)


def _medians(runs: list[Measured]) -> Measured:
    first, total, audio = (
        statistics.median(getattr(run, name) for run in runs) for name in ("first_s", "total_s", "audio_s")
    )
    return Measured(runs[0].text, first, total, audio)


def table(info: str, rows: list[Measured]) -> str:
    """Return what is shown: a line about the machine, and one for each text."""
    lines = [info, f"{'characters':>10}  {'first sound':>11}  {'audio':>8}  {'real-time factor':>16}"]
    lines += [
        f"{len(row.text):>10}  {row.first_s:>9.2f} s  {row.audio_s:>6.1f} s  {row.real_time_factor:>16.2f}"
        for row in rows
    ]
    worst = max(row.real_time_factor for row in rows)
    lines.append(
        f"{1 / worst:.1f} times as fast as it is heard"
        if worst <= 1
        else "slower than it is heard: streams will stutter"
    )
    return "\n".join(lines)
