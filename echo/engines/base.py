"""The engine interface: what the service needs from anything that can speak."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from echo.stream import FrameStream
from echo.types import Audio, EngineInfo, Utterance, VoiceState, Workload


class Engine(Protocol):
    """Something that speaks. Thread-safe; owns its device and its worker threads.

    ``warm_up``, ``finish_warm_up`` and ``close`` block and are called off the event loop; the other methods return at
    once.
    """

    @property
    def info(self) -> EngineInfo:
        """Name, rate, device and limits of this engine."""
        ...

    def workload(self) -> Workload:
        """Current queue and memory use; all zeros for an engine that does not track it."""
        return Workload()

    def queue_wait(self, work: Sequence[Utterance]) -> float:
        """Estimate how long the first of a request's utterances, submitted now, would wait, in seconds.

        Does not touch the device; 0 for a request without utterances. Raises TooLarge when one of them needs more
        memory than the device has. An utterance may come without its voice while that is not encoded yet.
        """
        return 0.0

    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        """Queue reference audio (mono, 44.1 kHz) to be encoded into the state that ``speak`` takes.

        Cancelling the future ends the work, even after it has started.
        """
        ...

    def speak(self, utterance: Utterance) -> FrameStream:
        """Queue one utterance and return its stream at once; raises TooLarge as ``queue_wait`` does."""
        ...

    def warm_up(self, utterance: Utterance) -> None:
        """Run every shape that a request like this one uses, so that no client waits for compilation."""
        return None

    def finish_warm_up(self) -> None:
        """Called once, after the last warm-up and before the first request."""
        return None

    def healthy(self) -> bool:
        """False after the device thread has died or stopped making progress."""
        return True

    def give_up(self) -> None:
        """Fail all submitted work, without waiting for a device that is not healthy any more; returns at once."""
        return None

    def close(self) -> None:
        """Fail what is queued, stop the threads, free the device; does not wait for a device that does not answer."""
        ...
