"""The server with a device that obeys the text it is given.

``hang`` never returns, ``die`` ends the device thread, ``lose`` is an error that stays, and ``fill`` has no memory for
a step. A clip of more than two seconds hangs, too, and one of less than a half does not fit.

``python faulty_server.py --port 0`` with the settings in the environment. The application, its command line and the
engine with its device thread are the real ones; only the model is made up.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from api_server import serve
from echo.engines.block import BlockEngine
from echo.model.base import Demand
from echo.runtime import Runtime
from echo.scheduler.cores import CoreThreads
from echo.scheduler.policy import Limits
from echo.settings import Settings, load_settings
from echo.telemetry import set_up_log
from echo.types import (
    SAMPLE_RATE,
    SAMPLES_PER_LATENT,
    Audio,
    BlockSpec,
    EngineInfo,
    SamplerParams,
    TailRules,
    Utterance,
    VoiceState,
)

INFO = EngineInfo(
    name="faulty", preset_family="tiny", sample_rate=SAMPLE_RATE, device="cpu", backend="none", license="none"
)


class DeviceLost(BaseException):
    """Not an Exception: what no handler of a failed tick catches."""


@dataclass
class Steps:
    """A block in work."""

    text: str
    size: int
    left: int
    next_rows: int = 1

    @property
    def done(self) -> bool:
        return self.left == 0

    @property
    def latents(self) -> np.ndarray:
        return np.full((self.size, 80), 0.1, np.float32)


@dataclass(frozen=True)
class Nothing:
    nbytes: int = 1


class Model:
    """Noise at once, unless the text asks for a fault."""

    decodes_asynchronously = False
    lost = False

    def tokenize(self, text: str) -> str:
        return text

    def demand(self, utterance: Utterance, tokens: str) -> Demand:
        return Demand()

    def conditions(self, tokens: str, voice: VoiceState | None) -> str:
        return tokens

    def empty_prefix(self) -> int:
        return 0

    def extend(self, prefix: int, latents: np.ndarray) -> int:
        return prefix

    def sampler(
        self, text: str, prefix: int, spec: BlockSpec, params: SamplerParams, noise_key: tuple[int, ...]
    ) -> Steps:
        return Steps(text, spec.size, spec.steps)

    def step(self, samplers: Sequence[Steps]) -> None:
        if any("fill" in sampler.text.lower() for sampler in samplers):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        for sampler in samplers:
            sampler.left -= 1
            if "hang" in sampler.text.lower():
                threading.Event().wait()
            if "die" in sampler.text.lower():
                raise DeviceLost
            if "lose" in sampler.text.lower():
                self.lost = True
            if self.lost:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def speech_end(self, spoken: Sequence[np.ndarray], rules: TailRules, *, last: bool) -> Callable[[], int | None]:
        end = sum(map(len, spoken)) if last else None
        return lambda: end

    def lost_with(self, error: Exception) -> bool:
        return self.lost

    def out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, torch.OutOfMemoryError)

    def decode(self, states: Sequence[Any], latents: Sequence[np.ndarray]) -> Callable[[], Sequence[tuple[Audio, Any]]]:
        audio = [(np.full(len(z) * SAMPLES_PER_LATENT, 0.1, np.float32), None) for z in latents]
        return lambda: audio

    def encode_voice_in_slices(self, audio: Audio) -> Generator[None, None, VoiceState]:
        if len(audio) > 2 * SAMPLE_RATE:  # a long clip
            threading.Event().wait()
        yield
        if len(audio) < SAMPLE_RATE // 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return Nothing()


def load(settings: Settings, gate: object) -> BlockEngine:
    cores = CoreThreads(settings.cpu_threads) if settings.cpu_threads else None
    return BlockEngine(Model(), INFO, Limits(max_jobs=4), cores=cores, stall_s=settings.device_timeout_s)


if __name__ == "__main__":
    set_up_log()
    sys.exit(serve(Runtime(load_settings(port=sys.argv[2]), load_engine=load)))
