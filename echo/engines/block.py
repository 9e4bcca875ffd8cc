"""BlockEngine: any block model behind the engine interface, with the scheduler as its device thread."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from dataclasses import replace

from typing_extensions import override

from echo.engines.accelerate import Acceleration
from echo.engines.base import Engine
from echo.engines.heads import TextHeads
from echo.model.base import BlockModel
from echo.scheduler.cores import CoreThreads
from echo.scheduler.loop import STALL_S, Scheduler
from echo.scheduler.policy import Limits
from echo.stream import FrameStream
from echo.types import Audio, DeviceMemory, EngineInfo, Utterance, VoiceState, Workload
from echo.vad import SilenceGate


class BlockEngine(Engine):
    """Speaks with a block model.

    gate          rejects blocks with a long silence; needs ``workers``
    workers       threads for the gate, and for waiting for copies from the device
    cores         threads that compute, for a small model on a CPU; closed with the engine
    acceleration  of the model; finished on the device thread after the warm-up
    memory        reads the device's memory; called on the device thread, where a device that hangs is noticed
    heads         for times of words; found after the warm-up where they are not known
    stall_s       the longest that one piece of work may take before the device counts as stuck
    """

    def __init__(
        self,
        model: BlockModel,
        info: EngineInfo,
        limits: Limits,
        *,
        gate: SilenceGate | None = None,
        workers: Executor | None = None,
        cores: CoreThreads | None = None,
        acceleration: Acceleration | None = None,
        memory: Callable[[], DeviceMemory] | None = None,
        heads: TextHeads | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self._model = model
        self._info = info
        self._acceleration = acceleration
        self._heads = heads
        self._cores = cores
        self._read_memory = memory
        self._memory: DeviceMemory | None = None
        self._reading: Future[None] | None = None
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
    @override
    def info(self) -> EngineInfo:
        return self._info

    @override
    def workload(self) -> Workload:
        misses = self._acceleration.misses if self._acceleration is not None else 0
        return replace(self._scheduler.workload(), shape_misses=misses)

    @override
    def device_memory(self) -> DeviceMemory | None:
        # What is returned is from the last call: the device thread reads it when it gets there.
        if self._read_memory is not None and (self._reading is None or self._reading.done()):
            self._reading = self._scheduler.submit_sliced(self._reading_memory(self._read_memory))
        return self._memory

    def _reading_memory(self, read: Callable[[], DeviceMemory]) -> Generator[None, None, None]:
        self._memory = read()
        return
        yield

    @override
    def prepare(self, utterance: Utterance) -> Utterance:
        return self._scheduler.prepare(utterance)

    @override
    def queue_wait(self, utterance: Utterance | None = None) -> float:
        return self._scheduler.queue_wait(utterance)

    @override
    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        return self._scheduler.submit_sliced(self._model.encode_voice_in_slices(audio))

    @override
    def speak(self, utterance: Utterance) -> FrameStream:
        return self._scheduler.submit(utterance)

    @override
    def warm_up(self, utterance: Utterance) -> None:
        for _ in self.speak(utterance):
            pass

    @override
    def finish_warm_up(self) -> None:
        if self._heads is not None and self._heads.unknown:
            found = self._scheduler.submit_sliced(self._heads.find())
            # What is captured cannot be made to watch them later. Elsewhere it takes too long to wait for.
            if self._acceleration is not None and self._acceleration.captures:
                found.result()
        if self._acceleration is not None:
            self._scheduler.run(self._acceleration.finish)
        if self._read_memory is not None:
            self._scheduler.submit_sliced(self._reading_memory(self._read_memory)).result()
        self._scheduler.reset_pace()

    @override
    def healthy(self) -> bool:
        return self._scheduler.healthy()

    @override
    def give_up(self) -> None:
        self._scheduler.give_up()

    @override
    def close(self) -> None:
        self._scheduler.close()
        if self._cores is not None:
            self._cores.close()
