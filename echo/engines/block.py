"""BlockEngine: any block model behind the engine interface, with the scheduler as its device thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Protocol

from echo.engines.base import Engine
from echo.engines.cores import Cores
from echo.model.base import BlockModel
from echo.scheduler.errands import Sliced
from echo.scheduler.loop import STALL_S, Scheduler
from echo.scheduler.policy import Limits
from echo.scheduler.runner import Gate
from echo.stream import FrameStream
from echo.types import Audio, EngineInfo, EngineLoad, Utterance, VoiceState


class SpeakingModel(BlockModel, Protocol):
    """A block model that also encodes reference voices."""

    def encode_voice_in_slices(self, audio: Audio) -> Sliced[VoiceState]:
        """Encode a reference clip, mono at the engine's rate; yields wherever other work may come between."""
        ...


class Acceleration(Protocol):
    """What makes a model fast once it is warm."""

    @property
    def misses(self) -> int:
        """How often, since ``finish``, something had a shape that was not ready and took the slow way."""
        ...

    def finish(self) -> None:
        """Make everything ready; on the device's thread."""
        ...


class BlockEngine(Engine):
    """Speaks with a block model; see the engine interface for the methods.

    ``acceleration`` is finished on the device thread between the last warm-up and the first request. ``stall_s`` is the
    longest that the device may take for one piece of work before it counts as stuck.
    """

    def __init__(
        self,
        model: SpeakingModel,
        info: EngineInfo,
        limits: Limits,
        *,
        gate: Gate | None = None,
        workers: Executor | None = None,
        cores: Cores | None = None,
        acceleration: Acceleration | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self._model = model
        self._info = info
        self._acceleration = acceleration
        self._cores = cores
        self._scheduler = Scheduler(
            model,
            sample_rate=info.sample_rate,
            limits=limits,
            gate=gate,
            workers=workers,
            cores=cores,
            stall_s=stall_s,
        )

    @property
    def info(self) -> EngineInfo:
        """Name, rate, device and limits of this engine."""
        return self._info

    def load(self) -> EngineLoad:
        """Ask the scheduler, and how often a shape was met that nothing was made ready for."""
        misses = self._acceleration.misses if self._acceleration is not None else 0
        return replace(self._scheduler.load(), shape_misses=misses)

    def queue_wait(self, work: Sequence[Utterance]) -> float:
        """Ask the scheduler."""
        return self._scheduler.queue_wait(work)

    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        """Encode a reference clip on the device thread, between the steps of those who are being served."""
        return self._scheduler.submit_sliced(self._model.encode_voice_in_slices(audio))

    def speak(self, utterance: Utterance) -> FrameStream:
        """Queue one utterance and return its stream at once."""
        return self._scheduler.submit(utterance)

    def warm_up(self, utterance: Utterance) -> None:
        """Speak an utterance to its end, so that every shape of its plan has run once."""
        for _ in self.speak(utterance):
            pass

    def warmed(self) -> None:
        """Finish what makes the model fast, and begin to measure the device's pace."""
        if self._acceleration is not None:
            self._scheduler.run(self._acceleration.finish)
        self._scheduler.forget_pace()

    def healthy(self) -> bool:
        """False after the device thread has died or got stuck."""
        return self._scheduler.healthy()

    def give_up(self) -> None:
        """Fail all that was handed in."""
        self._scheduler.give_up()

    def close(self) -> None:
        """Fail what is queued and end the threads."""
        self._scheduler.close()
        if self._cores is not None:
            self._cores.close()
