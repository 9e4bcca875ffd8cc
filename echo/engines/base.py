"""The engine interface: what the service needs from anything that can speak."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from echo.stream import FrameStream
from echo.types import Audio, DeviceMemory, EngineInfo, Utterance, VoiceState, Workload


class Engine(Protocol):
    """Something that speaks. Thread-safe; owns its device and its worker threads.

    ``prepare``, ``warm_up``, ``finish_warm_up`` and ``close`` are called off the event loop and may take a while; the
    other methods return at once.
    """

    @property
    def info(self) -> EngineInfo:
        """Name, rate, device and limits of this engine."""
        ...

    def workload(self) -> Workload:
        """Current queue and memory use; all zeros for an engine that does not track it."""
        return Workload()

    def device_memory(self) -> DeviceMemory | None:
        """Memory of the device, as it was last read; None for an engine whose device does not tell."""
        return None

    def prepare(self, utterance: Utterance) -> Utterance:
        """Return the utterance with what can be computed before the device has time for it, such as its tokens.

        Called once per utterance, its voice encoded, for all of a request before the first is spoken. Does not touch
        the device. Raises TooLarge for one that needs more memory than the device has. By default there is nothing to
        compute.
        """
        return utterance

    def queue_wait(self, utterance: Utterance | None = None) -> float:
        """Estimate how long an utterance, submitted now, would wait, in seconds.

        It must be prepared; None stands for one that fits into whatever memory is left.
        """
        return self.workload().queue_wait_s

    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        """Queue reference audio (mono, 44.1 kHz) to be encoded into the state that ``speak`` takes.

        Cancelling the future ends the work, even after it has started.
        """
        ...

    def own_voice(self, name: str) -> VoiceState | None:
        """Return a voice that the engine itself has, by its name; None where it has none of that name."""
        return None

    def speak(self, utterance: Utterance) -> FrameStream:
        """Queue a prepared utterance and return its stream at once."""
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

    def available(self) -> bool:
        """False while a healthy engine is recovering from a failure by itself: what it is given meanwhile waits."""
        return True

    def give_up(self) -> None:
        """Fail all submitted work, without waiting for a device that is not healthy any more; returns at once."""
        return None

    def close(self) -> None:
        """Fail what is queued, stop the threads, free the device; does not wait for a device that does not answer."""
        ...
