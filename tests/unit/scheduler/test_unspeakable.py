"""Texts with nothing to speak, and any other text: through the real service, scheduler and block engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.admission import Admission
from echo.audio.join import JoinRules
from echo.audio.pcm import from_bytes
from echo.engines.block import BlockEngine
from echo.errors import BadRequest, VoiceNotFound
from echo.presets import load_presets
from echo.scheduler.policy import Limits
from echo.service import SpeechService
from echo.settings import HOME
from echo.steps import ServiceRules
from echo.telemetry import Metrics
from echo.types import SAMPLE_RATE, ChunkRules, EngineInfo, SpeechRequest, TextRules, VoiceRef
from echo.voices.cache import VoiceCache
from echo.voices.library import VoiceLibrary
from tests.unit.scheduler.toy_model import ToyModel

INFO = EngineInfo(
    name="toy", preset_family="tiny", sample_rate=SAMPLE_RATE, device="cpu", backend="toy", license="none"
)

#: What texts are made of that are hard to read: marks, pauses, tags, and characters without a sound.
MARKS = [
    ".",
    "…",
    "!",
    "*",
    "*sighs*",
    "(laughs)",
    "[pause:10ms]",
    "<break/>",
    "<p>",
    "[S1]",
    "[S2]",
    "[a](b)",
    "```\n",
]
CHARS = [
    "#",
    "- ",
    "1. ",
    "|",
    "\n",
    "\r\n",
    " ",
    "\t",
    "🙂",
    "\u0301",
    "\u200d",
    "\ufe0f",
    "\x00",
    "\ud800",
    "语",
    "。",
]
WORDS = [
    "Hi",
    "A",
    "b",
    "3.5",
    "https://a.b",
    "&amp;",
    "&#0;",
    "e.g.",
    "Mr.",
    "'s",
    "_",
    "~~",
    "<!--",
    "-->",
    "https://",
]
PIECES = st.sampled_from([*MARKS, *CHARS, *WORDS])
TEXTS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=14).map("".join))


@contextmanager
def speaking() -> Iterator[SpeechService]:
    """A service whose engine has a real scheduler and a model that makes noise of 1 s at most."""
    engine = BlockEngine(ToyModel(speech_latents=4), INFO, Limits(max_jobs=4))
    with ThreadPoolExecutor(4) as workers:
        try:
            yield SpeechService(
                engine=engine,
                voices=VoiceLibrary([HOME / "audio_prompts"]),
                cache=VoiceCache(2**20, executor=workers),
                presets=load_presets(
                    HOME / "presets.toml", "tiny", "default", nonstream_steps=1, max_latents=256, max_layers=24
                ),
                admission=Admission(4, max_wait_s=30),
                rules=ServiceRules(text=TextRules(), chunks=ChunkRules(max_chars=150), join=JoinRules()),
                workers=workers,
                metrics=Metrics(),
            )
        finally:
            engine.close()


async def spoken(service: SpeechService, text: str, voice: str = "none") -> bytes:
    stream = await service.open(SpeechRequest(text=text, voice=VoiceRef(name=voice), seed=1))
    return await stream.collect()


@pytest.mark.parametrize("text", [".", "*sighs*", "🙂", "[pause:2s]", "...", "# ", "[S2]", "\u200b", "()", "\x00"])
async def test_a_text_with_nothing_to_speak_is_a_tenth_of_a_second_of_silence(text: str) -> None:
    with speaking() as service:
        samples = from_bytes(await spoken(service, text))
        assert service.admission.open == 0
    assert len(samples) == SAMPLE_RATE // 10
    assert not samples.any()


async def test_it_costs_no_device_work_but_its_voice_must_be_known() -> None:
    with speaking() as service:
        await spoken(service, ".", "tiny_anna")
        assert service._cache.stats().misses == 0
        with pytest.raises(VoiceNotFound):
            await spoken(service, ".", "nobody")
        assert service.admission.open == 0


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
def test_every_text_becomes_audio_or_is_refused_for_being_empty(texts: list[str]) -> None:
    async def speak_all() -> None:
        with speaking() as service:
            for text in texts:
                if text.strip():
                    samples = from_bytes(await spoken(service, text))
                    assert len(samples) >= SAMPLE_RATE // 10
                    assert np.isfinite(samples).all()
                else:
                    with pytest.raises(BadRequest):
                        await spoken(service, text)
            assert service.admission.open == 0

    asyncio.run(speak_all())
