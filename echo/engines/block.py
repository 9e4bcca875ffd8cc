"""BlockEngine: any block model behind the engine interface, with the scheduler as its device thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from echo.engines.base import Engine
from echo.model.base import BlockModel
from echo.scheduler.loop import Gate, Scheduler
from echo.scheduler.policy import Limits
from echo.stream import FrameStream
from echo.types import Audio, EngineInfo, Utterance, VoiceState


class SpeakingModel(BlockModel, Protocol):
    """A block model that also encodes reference voices."""

    def encode_voice(self, audio: Audio) -> VoiceState:
        """Encode a reference clip, mono at the engine's rate."""
        ...


class BlockEngine(Engine):
    """Speaks with a block model; see the engine interface for the methods.

    ``after_warm_up`` runs on the device thread between the last warm-up and the first request.
    """

    def __init__(
        self,
        model: SpeakingModel,
        info: EngineInfo,
        limits: Limits,
        *,
        gate: Gate | None = None,
        workers: Executor | None = None,
        after_warm_up: Callable[[], None] | None = None,
    ) -> None:
        self._model = model
        self._info = info
        self._after_warm_up = after_warm_up
        self._scheduler = Scheduler(model, sample_rate=info.sample_rate, limits=limits, gate=gate, workers=workers)

    @property
    def info(self) -> EngineInfo:
        """Name, rate, device and limits of this engine."""
        return self._info

    def admit(self) -> None:
        """Refuse nothing: how many requests are open is the service's to limit."""

    def encode_voice(self, audio: Audio) -> VoiceState:
        """Encode a reference clip on the device thread."""
        return self._scheduler.run(lambda: self._model.encode_voice(audio))

    def speak(self, utterance: Utterance) -> FrameStream:
        """Queue one utterance and return its stream at once."""
        return self._scheduler.submit(utterance)

    def warm_up(self, utterance: Utterance) -> None:
        """Speak an utterance to its end, so that every shape of its plan has run once."""
        for _ in self.speak(utterance):
            pass

    def warmed(self) -> None:
        """Run ``after_warm_up``."""
        if self._after_warm_up is not None:
            self._scheduler.run(self._after_warm_up)

    def healthy(self) -> bool:
        """False after the device thread has died or got stuck."""
        return self._scheduler.healthy()

    def close(self) -> None:
        """Fail what is queued and end the device thread."""
        self._scheduler.close()
