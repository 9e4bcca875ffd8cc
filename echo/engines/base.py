"""The engine interface: what the service needs from anything that can speak."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from echo.stream import FrameStream
from echo.types import Audio, EngineInfo, EngineLoad, Utterance, VoiceState


class Engine(Protocol):
    """Something that speaks. Thread-safe; owns its device and its worker threads.

    ``warm_up``, ``warmed`` and ``close`` block and are called off the event loop; the other methods return at once.
    """

    @property
    def info(self) -> EngineInfo:
        """Name, rate, device and limits of this engine."""
        ...

    def load(self) -> EngineLoad:
        """Return how much there is to do; an engine that does not count says nothing."""
        return EngineLoad()

    def queue_wait(self, work: Sequence[Utterance]) -> float:
        """Return the seconds that a request's utterances, handed in now, would wait until the first is begun.

        An estimate, made without touching the device; a request without any waits for nothing. Raises TooLarge when
        one of them could never be spoken for want of memory. An utterance whose voice is not encoded yet may come
        without it.
        """
        return 0.0

    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        """Queue reference audio (mono, 44.1 kHz) to be encoded into the state that ``speak`` takes.

        Cancelling the future ends the work, also when it has begun.
        """
        ...

    def speak(self, utterance: Utterance) -> FrameStream:
        """Queue one utterance and return its stream at once; raises TooLarge as ``queue_wait`` does."""
        ...

    def warm_up(self, utterance: Utterance) -> None:
        """Run every shape that a request will use, so that the first listener does not wait for it."""
        ...

    def warmed(self) -> None:
        """Note that the last warm-up has run; called once, before the first request."""
        ...

    def healthy(self) -> bool:
        """False after the device thread has died or stopped making progress."""
        ...

    def give_up(self) -> None:
        """Fail all that was handed in, without waiting for a device that is not healthy any more; returns at once."""
        return None

    def close(self) -> None:
        """Fail what is queued, stop the threads, free the device; does not wait for one that does not answer."""
        ...
