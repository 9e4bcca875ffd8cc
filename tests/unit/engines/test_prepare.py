"""What an engine computes of an utterance before the device is computed once, from the request to the last frame."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from typing_extensions import override

from echo.admission import Admission
from echo.audio.join import JoinRules
from echo.engines.block import BlockEngine
from echo.model.base import Demand
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho
from echo.presets import load_presets
from echo.scheduler.policy import Limits
from echo.service import SpeechService
from echo.settings import HOME
from echo.steps import ServiceRules
from echo.telemetry import Metrics
from echo.text.tokenize import encode
from echo.types import (
    SAMPLE_RATE,
    ChunkRules,
    EngineInfo,
    SpeechOptions,
    SpeechRequest,
    TextRules,
    Utterance,
    VoiceRef,
)
from echo.voices.cache import VoiceCache
from echo.voices.library import VoiceLibrary
from tests.unit.small_echo import DIM, small_autoencoder, small_dit, small_pca

TEXT = "The library is open. Bread is sold at noon. The boat has left."
INFO = EngineInfo(
    name="small", preset_family="tiny", sample_rate=SAMPLE_RATE, device="cpu", backend="torch", license="none"
)


class CountingModel(EchoModel):
    """A small model of random numbers that notes which texts it tokenises and whose demand it estimates."""

    def __init__(self) -> None:
        self.tokenized: list[str] = []
        self.estimated: list[str] = []
        loaded = LoadedEcho(
            dit=small_dit(torch.float32), autoencoder=small_autoencoder(), pca=small_pca(DIM), config={}
        )
        super().__init__(loaded, self._noted, max_speaker_latents=64)

    def _noted(self, text: str) -> Sequence[int]:
        self.tokenized.append(text)
        return encode(text)

    @override
    def demand(self, utterance: Utterance, *more: Any) -> Demand:
        self.estimated.append(utterance.text)
        return super().demand(utterance, *more)


async def test_a_request_of_three_chunks_tokenises_each_and_estimates_its_demand_once() -> None:
    model = CountingModel()
    engine = BlockEngine(model, INFO, Limits(max_jobs=2))
    with ThreadPoolExecutor(2) as workers:
        service = SpeechService(
            engine=engine,
            voices=VoiceLibrary([HOME / "audio_prompts"]),
            cache=VoiceCache(2**20, executor=workers),
            presets=load_presets(
                HOME / "presets.toml", "tiny", "default", nonstream_steps=None, max_latents=640, max_layers=2
            ),
            admission=Admission(4, max_wait_s=60.0),
            rules=ServiceRules(text=TextRules(), chunks=ChunkRules(target_s=2, min_s=1, max_s=3), join=JoinRules()),
            workers=workers,
            metrics=Metrics(),
        )
        options = SpeechOptions(block_sizes=(4, 4), num_steps=1)
        stream = await service.open(SpeechRequest(text=TEXT, voice=VoiceRef(name="tiny_anna"), options=options))
        await stream.collect()
        engine.close()
    assert stream.stats.chunks == 3
    assert len(set(model.tokenized)) == 3
    assert sorted(model.tokenized) == sorted(set(model.tokenized)) == sorted(model.estimated)
