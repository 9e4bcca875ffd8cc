"""The orchestration, against an engine that only makes sines."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echo.admission import Admission
from echo.audio.join import JoinRules
from echo.audio.pcm import from_bytes
from echo.emotion import FIELDS
from echo.engines.fake import FakeEngine, FakeScript, FakeVoice
from echo.errors import FAILURES, BadRequest, EngineFailed, Overloaded, TooLarge, VoiceNotFound
from echo.limits import RequestLimits
from echo.presets import load_presets
from echo.service import SpeechService
from echo.settings import HOME
from echo.steps import ServiceRules
from echo.telemetry import Metrics
from echo.types import (
    SAMPLE_RATE,
    Audio,
    AudioFormat,
    ChunkRules,
    Emotion,
    Encoding,
    SpeechOptions,
    SpeechRequest,
    TextRules,
    Utterance,
    VoiceRef,
)
from echo.voices.cache import VoiceCache
from echo.voices.library import VoiceLibrary
from echo.voices.turns import Turns
from echo.voices.voice import ClipVoice, Voice

SENTENCE = "This is one sentence of the text. "
SHORT_CHUNKS = ChunkRules(target_s=2, min_s=1, max_s=4)


@asynccontextmanager
async def speech(
    script: FakeScript | None = None,
    *,
    folder: Path = HOME / "audio_prompts",
    queue: int = 4,
    max_wait_s: float = 0,
    metrics: Metrics | None = None,
    emotions: Collection[str] = (),
    **rules: Any,
) -> AsyncIterator[SpeechService]:
    with ThreadPoolExecutor(4) as workers:
        yield SpeechService(
            engine=FakeEngine(script, replace(FakeEngine().info, emotions=frozenset(emotions))),
            voices=VoiceLibrary([folder]),
            cache=VoiceCache(2**20, executor=workers),
            presets=load_presets(
                HOME / "presets.toml", "echo", "exact", nonstream_steps=None, max_latents=640, max_layers=24
            ),
            admission=Admission(1 + queue, max_wait_s=max_wait_s),
            rules=ServiceRules(**{"text": TextRules(), "chunks": SHORT_CHUNKS, "join": JoinRules(), **rules}),
            workers=workers,
            metrics=metrics or Metrics(),
        )


def request(text: str = SENTENCE, **fields: Any) -> SpeechRequest:
    return SpeechRequest(text=text, voice=VoiceRef(name="tiny_anna"), **fields)


#: Longer than anything here takes on a busy machine: only a failing test waits for it.
PATIENCE_S = 60.0


class Held:
    """A ``FakeScript.render`` that holds what is spoken, from its block ``block`` on, until ``go_on``."""

    def __init__(self, block: int = 0) -> None:
        self.block = block
        self._go_on = threading.Event()

    def go_on(self) -> None:
        self._go_on.set()

    def __call__(self, utterance: Utterance, block: int, count: int) -> Audio:
        if utterance.chunk or block >= self.block:
            assert self._go_on.wait(PATIENCE_S)
        return np.full(count, 0.25, np.float32)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the engine's thread has no event to wait for
            await asyncio.sleep(0.002)


def outcomes(metrics: Metrics) -> dict[str, float]:
    """Return how many requests have ended, and how."""
    samples = metrics.speech.requests.collect()[0].samples
    return {s.labels["outcome"]: s.value for s in samples if s.name == "echo_requests_total" and s.value}


async def test_text_becomes_pcm() -> None:
    async with speech() as service:
        stream = await service.open(request(seed=7))
        body = await stream.collect()
    samples = from_bytes(body)
    assert len(samples) / 44_100 == pytest.approx(stream.stats.audio_s)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.01)
    assert stream.seed == 7
    assert stream.stats.total_s is not None
    assert service.admission.open == 0


async def test_the_same_seed_repeats_and_a_missing_one_is_drawn() -> None:
    async with speech() as service:
        first, second = [await (await service.open(request(seed=3))).collect() for _ in range(2)]
        drawn = [await service.open(request(seed=seed)) for seed in (None, -1)]
        for stream in drawn:
            assert stream.seed >= 0
            stream.close()
    assert first == second
    assert drawn[0].seed != drawn[1].seed


async def test_long_text_is_spoken_in_order_and_the_next_chunk_is_made_ahead() -> None:
    script = FakeScript()
    async with speech(script) as service:
        stream = await service.open(request(SENTENCE * 6, seed=1))
        await until(lambda: len(script.spoken) == 2)  # the second chunk while the first has hardly been read
        await stream.collect()
    assert stream.stats.chunks == 6
    assert [utterance.chunk for utterance in script.spoken] == list(range(6))
    assert [block.size for block in script.spoken[0].plan.blocks] == [32, 128, 480]
    assert [block.size for block in script.spoken[1].plan.blocks] == [640]
    assert len({id(utterance.listener) for utterance in script.spoken}) == 1


async def test_chunks_may_keep_the_streaming_shape() -> None:
    script = FakeScript()
    async with speech(script, secondary_streaming=True) as service:
        await (await service.open(request(SENTENCE * 2))).collect()
    assert [block.size for block in script.spoken[1].plan.blocks] == [32, 128, 480]


async def test_a_pause_is_silence_in_its_place() -> None:
    async with speech() as service:
        plain = await (await service.open(request("One two three. Four five six.", seed=1))).collect()
        paused = await (await service.open(request("One two three. [pause:1.5s] Four five six.", seed=1))).collect()
        before = await (await service.open(request("[pause:1s] One two three.", seed=1))).collect()
    assert len(from_bytes(paused)) - len(from_bytes(plain)) > 44_100
    silent = np.flatnonzero(np.abs(from_bytes(paused)) > 1e-3)
    assert np.diff(silent).max() >= 1.5 * 44_100
    assert not from_bytes(before)[:44_000].any()


@pytest.mark.parametrize("encoding", [e for e in Encoding if e is not Encoding.F32])
async def test_every_format_comes_out_of_the_same_path(encoding: Encoding) -> None:
    async with speech() as service:
        stream = await service.open(request(format=AudioFormat(encoding=encoding)))
        assert len(await stream.collect()) > 500


async def test_closing_a_stream_stops_the_engine_and_frees_the_slot() -> None:
    script = FakeScript(render=(held := Held(block=1)))
    async with speech(script) as service:
        stream = await service.open(request(SENTENCE * 40))
        assert service.admission.open == 1
        stream.close()
        stream.close()
        assert service.admission.open == 0
        held.go_on()
        await until(lambda: len(script.cancelled) == len(script.spoken))
        assert [piece async for piece in stream] == []


async def test_cancelling_the_opening_frees_everything() -> None:
    script = FakeScript(render=(held := Held()))
    async with speech(script) as service:
        task = asyncio.create_task(service.open(request(format=AudioFormat(encoding=Encoding.WAV))))
        await until(lambda: bool(script.spoken))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert service.admission.open == 0
        held.go_on()
        await until(lambda: len(script.cancelled) == 1)


@pytest.mark.parametrize("slow", ["resolve", "encoded"])
async def test_a_listener_who_leaves_before_the_engine_has_the_text_counts_as_cancelled(slow: str) -> None:
    asked = asyncio.Event()

    async def wait(voice: object, client: str = "") -> None:
        asked.set()
        await asyncio.Event().wait()

    metrics = Metrics()
    async with speech(metrics=metrics) as service:
        setattr(service, slow, wait)
        opening = asyncio.create_task(service.open(request()))
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert service.admission.open == 0
        assert outcomes(metrics) == {"cancelled": 1}


async def test_a_failure_before_the_first_frame_is_raised_by_open() -> None:
    async with speech(FakeScript(fail_before=True)) as service:
        with pytest.raises(EngineFailed):
            await service.open(request())
        assert service.admission.open == 0


async def test_a_failure_later_is_raised_to_the_reader_never_a_short_stream() -> None:
    script = FakeScript(fail_after_blocks=1, audio_s_per_char=1.0)
    async with speech(script) as service:
        stream = await service.open(request())
        with pytest.raises(EngineFailed):
            await stream.collect()
        assert service.admission.open == 0
        assert stream.stats.failure == "generation_failed"


async def test_a_whole_file_that_fails_has_no_first_byte() -> None:
    async with speech(FakeScript(fail_after_blocks=1, audio_s_per_char=1.0)) as service:
        with pytest.raises(EngineFailed):
            await service.open(request(format=AudioFormat(encoding=Encoding.WAV)))


async def test_beyond_the_queue_requests_are_refused_before_any_work() -> None:
    script = FakeScript()
    async with speech(script, queue=0) as service:
        stream = await service.open(request())
        with pytest.raises(Overloaded):
            await service.open(request())
        assert len(script.spoken) == 1
        stream.close()
        (await service.open(request())).close()


async def test_what_would_wait_too_long_is_refused_before_any_work() -> None:
    script = FakeScript(queue_wait_s=31.0)
    async with speech(script, max_wait_s=30) as service:
        with pytest.raises(Overloaded) as refused:
            await service.open(request())
        assert refused.value.retry_after_s == 1
        assert script.spoken == []
        assert service._cache.stats().misses == 0  # nor was the voice asked for
        script.queue_wait_s = 29.0
        (await service.open(request())).close()


async def test_a_queue_that_has_grown_while_the_voice_was_read_refuses_too_and_frees_the_slot() -> None:
    script = FakeScript()

    async def busy(voice: object, client: str) -> None:
        script.queue_wait_s = 31.0

    async with speech(script, max_wait_s=30) as service:
        service.encoded = busy  # type: ignore[method-assign]
        with pytest.raises(Overloaded):
            await service.open(request())
        assert service.admission.open == 0
        assert script.spoken == []


async def test_all_chunks_are_prepared_with_their_voice_and_how_long_they_will_take() -> None:
    script = FakeScript()
    async with speech(script) as service:
        (await service.open(request(SENTENCE * 3))).close()
    assert [each.chunk for each in script.prepared] == [0, 1, 2]
    for each in script.prepared:
        assert each.voice is not None
        assert each.estimate_s == pytest.approx(len(each.text) / 14.0, rel=0.3)


async def test_a_later_chunk_that_is_too_large_is_refused_before_the_first_is_spoken_and_frees_the_slot() -> None:
    script = FakeScript(max_text=len(f"[S1] {SENTENCE}"))
    async with speech(script) as service:
        with pytest.raises(TooLarge):
            await service.open(request(SENTENCE + SENTENCE.replace("one", "the second and last")))
        assert service.admission.open == 0
    assert len(script.prepared) == 1
    assert script.spoken == []


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"text": "   "}, "input"),
        ({"text": "x" * 5000}, "input"),
        ({"preset": "fastest"}, "preset"),
        ({"options": SpeechOptions(block_sizes=(640, 640), num_steps=1)}, "block_sizes"),
        ({"format": AudioFormat(sample_rate=1)}, "sample_rate"),
        ({"speed": 9.0}, "speed"),
    ],
)
async def test_a_wrong_request_names_the_field_and_takes_no_slot(wrong: dict[str, Any], param: str) -> None:
    script = FakeScript()
    async with speech(script) as service:
        with pytest.raises(BadRequest) as caught:
            await service.open(replace(request(), **wrong))
        assert caught.value.param == param
        assert service.admission.open == 0
        assert script.spoken == []


@pytest.mark.parametrize("text", ["*sighs*", ".", "🙂"])
async def test_text_without_anything_to_speak_is_a_short_silence(text: str) -> None:
    script = FakeScript()
    async with speech(script) as service:
        stream = await service.open(request(text))
        samples = from_bytes(await stream.collect())
        assert service.admission.open == 0
    assert len(samples) == 4410
    assert not samples.any()
    assert script.spoken == []


async def test_an_unknown_voice_takes_no_slot() -> None:
    async with speech() as service:
        with pytest.raises(VoiceNotFound):
            await service.open(replace(request(), voice=VoiceRef(name="nobody")))
        assert service.admission.open == 0


async def test_no_reference_at_all_is_a_voice_too() -> None:
    script = FakeScript()
    async with speech(script) as service:
        await (await service.open(replace(request(), voice=VoiceRef(name="none")))).collect()
    assert script.spoken[0].voice is None


async def test_the_speech_span_follows_the_listeners_clock() -> None:
    async with speech() as service:
        plain = await service.open(request(seed=1))
        await plain.collect()
        fast = await service.open(request(seed=1, speed=2.0))
        await fast.collect()
    assert plain.stats.speech_end_s is not None
    assert fast.stats.speech_end_s == pytest.approx(plain.stats.speech_end_s / 2)
    assert fast.output.duration_s == pytest.approx(plain.output.duration_s / 2, rel=0.02)


async def test_what_was_done_is_counted() -> None:
    metrics = Metrics()
    async with speech(metrics=metrics) as service:
        stream = await service.open(request())
        await stream.collect()
        left = await service.open(request())
        left.close()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model_name": "echo-tts", **labels})

    assert outcomes(metrics) == {"done": 1, "cancelled": 1}
    assert value("requests_success_total", finished_reason="stop") == 1
    assert value("requests_success_total", finished_reason="abort") == 1
    assert value("requests_success_total", finished_reason="error") == 0
    # Under both names, and of what was heard, not only of what was finished.
    assert value("echo_first_frame_seconds_count") == value("audio_ttfp_s_count") == 2
    assert value("echo_first_frame_seconds_sum") == value("audio_ttfp_s_sum")
    assert value("request_queue_time_seconds_count") == 2
    assert value("e2e_request_latency_s_sum") == stream.stats.total_s
    assert value("audio_duration_s_sum") == stream.stats.audio_s
    assert stream.stats.generation_s > 0
    assert value("audio_rtf_sum") == pytest.approx(stream.stats.generation_s / stream.stats.audio_s)
    assert value("audio_underrun_s_count") == 2
    smooth = [each.stats.underrun_s <= 0.1 for each in (stream, left)]  # both, unless the machine stands still
    assert value("audio_continuity_ok_total", threshold_ms="100") == sum(smooth)
    assert value("echo_blocks_total") == stream.stats.blocks > 0
    assert value("echo_rerolls_total") == 0


async def test_work_in_the_background_is_counted_but_not_timed() -> None:
    metrics = Metrics()
    async with speech(metrics=metrics) as service:
        await service.collect(request(background=True))
    assert outcomes(metrics) == {"done": 1}
    for name in (
        "request_queue_time_seconds",
        "e2e_request_latency_s",
        "audio_rtf",
        "audio_ttfp_s",
        "audio_underrun_s",
    ):
        assert metrics.registry.get_sample_value(f"{name}_count", {"model_name": "echo-tts"}) == 0


async def test_why_a_speech_has_failed_is_counted() -> None:
    metrics = Metrics()
    async with speech(FakeScript(fail_after_blocks=1, audio_s_per_char=1.0), metrics=metrics) as service:
        stream = await service.open(request())
        with pytest.raises(EngineFailed):
            await stream.collect()
    samples = [s for s in metrics.speech.failures.collect()[0].samples if s.name == "echo_failures_total"]
    assert {s.labels["reason"]: s.value for s in samples if s.value} == {"generation_failed": 1}
    assert {s.labels["reason"] for s in samples} == set(FAILURES)  # begin at 0, so that the first is an increase


async def test_gaps_in_the_audio_are_measured_for_listeners_only() -> None:
    metrics = Metrics()
    script = FakeScript(block_s=0.2, render=lambda utterance, block, count: np.zeros(441, np.float32))
    async with speech(script, metrics=metrics) as service:
        stream = await service.open(request())
        await stream.collect()
        await service.collect(request())  # nobody listens to a whole answer while it is made
    assert stream.stats.blocks > 1
    assert stream.stats.underrun_s > 0.1
    value = metrics.registry.get_sample_value
    assert value("audio_underrun_s_count", {"model_name": "echo-tts"}) == 1
    assert value("audio_continuity_ok_total", {"model_name": "echo-tts", "threshold_ms": "100"}) == 0
    assert value("audio_ttfp_s_count", {"model_name": "echo-tts"}) == 1
    assert value("audio_duration_s_count", {"model_name": "echo-tts"}) == 2


async def test_how_long_a_hang_up_takes_to_reach_the_engine_is_measured() -> None:
    metrics = Metrics()
    script = FakeScript(render=(held := Held(block=1)))
    async with speech(script, metrics=metrics) as service:
        stream = await service.open(request())
        stream.close()
        held.go_on()
        await until(lambda: bool(script.cancelled))
        count = functools.partial(metrics.registry.get_sample_value, "echo_cancel_seconds_count")
        await until(lambda: count({"model_name": "echo-tts"}) == 1)
        await (await service.open(request("Short."))).collect()
    assert count({"model_name": "echo-tts"}) == 1  # an answer that ends by itself is no hang-up


async def test_a_new_voice_is_read_in_the_turn_of_the_requests_client() -> None:
    class Noting(Turns):
        clients: list[str] = []  # noqa: RUF012 - one instance

        def take(self, client: str, nbytes: int = 0) -> AbstractAsyncContextManager[None]:
            self.clients.append(client)
            return super().take(client, nbytes)

    turns = Noting()
    async with speech() as service:
        service._cache = VoiceCache(2**20, turns=turns)
        for _ in range(2):  # the second time it is no new one
            await (await service.open(request(client="key 1"))).collect()
    assert turns.clients == ["key 1"]
    assert (turns.running, turns.waiting) == (0, 0)


async def test_an_emotion_reaches_the_engine_with_its_clip_encoded() -> None:
    async with speech(script := FakeScript(), emotions=FIELDS.values()) as service:
        emotion = Emotion(clip=VoiceRef(name="tiny_dan"), alpha=0.5)
        await service.collect(request(SENTENCE * 3, emotion=emotion))
    assert len(script.spoken) > 1
    for utterance in script.spoken:
        assert utterance.emotion == emotion
        assert utterance.emotion_voice not in (None, utterance.voice)


async def test_the_clip_of_an_emotion_is_found_before_a_slot_is_taken() -> None:
    async with speech(emotions=FIELDS.values()) as service:
        resolve = service.resolve

        async def noting(ref: VoiceRef, client: str = "") -> Voice | ClipVoice | None:
            held[ref.name] = service.admission.open
            return await resolve(ref, client)

        held: dict[str | None, int] = {}
        service.resolve = noting  # type: ignore[method-assign]
        await service.collect(request(emotion=Emotion(clip=VoiceRef(name="tiny_dan"))))
        assert held == {"tiny_anna": 0, "tiny_dan": 0}
        with pytest.raises(VoiceNotFound):
            await service.open(request(emotion=Emotion(clip=VoiceRef(name="nobody"))))
        assert service.admission.open == 0


async def test_clips_that_have_been_found_already_are_a_voice() -> None:
    clips = tuple(sorted((HOME / "audio_prompts").glob("tiny_*.flac"))[:2])
    async with speech(script := FakeScript()) as service:
        await service.collect(replace(request(), voice=VoiceRef(name="two", files=clips)))
        await service.collect(replace(request(), voice=VoiceRef(files=clips[:1])))
    two, one = (utterance.voice for utterance in script.spoken)
    assert isinstance(two, FakeVoice)
    assert isinstance(one, FakeVoice)
    assert two.samples > one.samples + SAMPLE_RATE


def limited(**limits: Any) -> dict[str, Any]:
    return {"limits": RequestLimits(**limits)}


@pytest.mark.parametrize(
    ("limits", "wrong", "told"),
    [
        ({"max_chunks": 3}, {"text": SENTENCE * 8}, "8 chunks; at most 3"),
        ({"max_pauses_s": 15}, {"text": "One [pause:9s] two [pause:9s] three."}, "18.0 s; at most 15 s"),
        ({"max_pauses_s": 1}, {"text": "[pause:2s] One."}, "2.0 s; at most 1 s"),
        ({"max_audio_s": 10}, {"text": SENTENCE * 8}, "at most 10 s"),
        ({"max_audio_s": 10}, {"text": SENTENCE, "speed": 0.25}, "at most 10 s"),
        ({"max_audio_s": 10}, {"text": "One [pause:9s] two [pause:3s] three."}, "at most 10 s"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_what_asks_for_too_much_is_refused_before_any_device_work(
    limits: dict[str, Any], wrong: dict[str, Any], told: str, whole: bool
) -> None:
    script = FakeScript()
    async with speech(script, **limited(**limits)) as service:
        with pytest.raises(BadRequest, match=told) as caught:
            await (service.collect if whole else service.open)(replace(request(), **wrong))
        assert caught.value.param == "input"
        assert script.spoken == script.prepared == []
        assert service.admission.open == 0


async def test_the_wish_for_tiny_chunks_does_not_change_what_is_expected() -> None:
    async with speech(**limited(max_audio_s=10)) as service:
        stream = await service.open(request(options=SpeechOptions(chunk_chars_per_second=1.0)))
        await stream.collect()


async def test_audio_that_becomes_too_long_ends_with_an_error() -> None:
    script = FakeScript(audio_s_per_char=1.0)  # 36 s, expected are 3
    async with speech(script, **limited(max_audio_s=10)) as service:
        stream = await service.open(request())
        with pytest.raises(BadRequest, match="longer than 10 s"):
            await stream.collect()
        with pytest.raises(BadRequest, match="longer than 10 s"):
            await service.collect(request())
        assert service.admission.open == 0
        assert stream.stats.failure == "invalid_value"


@pytest.mark.parametrize("encoding", [Encoding.WAV, Encoding.PCM, Encoding.F32, Encoding.MP3, Encoding.MULAW])
async def test_an_answer_too_large_for_one_piece_is_refused_at_once(encoding: Encoding) -> None:
    script = FakeScript()
    wish = request(SENTENCE * 40, format=AudioFormat(encoding=encoding))
    async with speech(script, **limited(max_whole_bytes=100_000)) as service:
        with pytest.raises(BadRequest, match="sent in one piece"):
            await service.collect(wish)
        assert script.spoken == []
        (await service.open(wish)).close()  # it may still be streamed


async def test_an_answer_that_becomes_too_large_for_one_piece_ends_with_an_error() -> None:
    script = FakeScript(audio_s_per_char=1.0)
    async with speech(script, **limited(max_whole_bytes=500_000)) as service:
        with pytest.raises(BadRequest, match="sent in one piece"):
            await service.collect(request())
        assert service.admission.open == 0
        await until(lambda: len(script.spoken) == 1)


@pytest.mark.slow
async def test_long_texts_are_read_while_others_are_served() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async with speech(**limited(max_input_chars=400_000, max_chunks=100, max_audio_s=1)) as service:
        ticking = asyncio.create_task(tick())
        with pytest.raises(BadRequest):
            await service.open(request(SENTENCE * 10_000))
        ticking.cancel()
    assert ticks > 10
