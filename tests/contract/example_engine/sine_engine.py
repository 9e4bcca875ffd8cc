"""The smallest complete engine: a sine tone at 24 kHz that streams, cancels and reports its workload.

A package registers an engine in its ``pyproject.toml``; ``ECHO_ENGINE=sine`` then chooses it::

    [project.entry-points."echo_tts.engines"]
    sine = "sine_engine:load"
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from echo.engines.base import Engine
from echo.settings import Settings
from echo.stream import FrameStream
from echo.types import LATENT_S, Audio, AudioFrame, EngineInfo, Utterance, VoiceState, Workload
from echo.vad import SilenceGate

RATE = 24_000
HERTZ = 440.0
S_PER_CHAR = 0.06


@dataclass(frozen=True)
class SineVoice:
    """An encoded voice: how loud its clip is."""

    loudness: float
    nbytes: int = 8


class SineEngine(Engine):
    """Speaks 60 ms of tone per character, as loud as the voice, on two threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="sine")
        self._open: list[FrameStream] = []

    @property
    @override
    def info(self) -> EngineInfo:
        return EngineInfo(
            name="sine", preset_family="echo", sample_rate=RATE, device="cpu", backend="numpy", license="MIT"
        )

    @override
    def workload(self) -> Workload:
        self._open = [stream for stream in self._open if not stream.finished]
        active = min(2, len(self._open))
        return Workload(active=active, waiting=len(self._open) - active)

    @override
    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        return self._threads.submit(lambda: SineVoice(float(np.abs(audio).max())))

    @override
    def speak(self, utterance: Utterance) -> FrameStream:
        stream = FrameStream()
        self._open.append(stream)
        self._threads.submit(self._generate, utterance, stream)
        return stream

    @override
    def close(self) -> None:
        for stream in self._open:
            stream.cancel()
        self._threads.shutdown()

    def _generate(self, utterance: Utterance, stream: FrameStream) -> None:
        voice = utterance.voice
        loudness = voice.loudness if isinstance(voice, SineVoice) else 0.5
        total = round(len(utterance.text) * S_PER_CHAR * RATE)
        start = 0
        for index, block in enumerate(utterance.plan.blocks):
            end = min(total, start + round(block.size * LATENT_S * RATE))
            samples = loudness * np.sin(2 * np.pi * HERTZ / RATE * np.arange(start, end))
            is_last = end == total or index + 1 == len(utterance.plan.blocks)
            if stream.cancelled:  # the client has left
                break
            stream.put(AudioFrame(samples.astype(np.float32), RATE, utterance.chunk, index, is_last))
            stream.stats.blocks += 1
            if is_last:
                break
            start = end
        stream.finish()


def load(settings: Settings, gate: SilenceGate | None) -> SineEngine:
    """Load the engine; it needs none of the settings, and its speech has no silences to reject."""
    return SineEngine()
