"""Jobs from input to answer, against an engine that makes sines or what a test has it make."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from echo.engines.fake import FakeEngine, FakeScript
from echo.errors import BadRequest
from echo.stream import FrameStream
from echo.text.worker_chunks import chunk_by_chars, chunk_by_chars_and_duration
from echo.types import SAMPLE_RATE, Audio, EngineInfo, Utterance
from tests.reference.crossfade import join_chunks
from tests.unit.test_service import Held
from tests.unit.worker.workers import PATIENCE_S, Worker, pcm, until, working, write_clip
from worker.deliver import pieces
from worker.echo_job import echo_job
from worker.speech import CHUNKS_AT_A_TIME, requests

pytestmark = pytest.mark.slow

TEXT = (
    "This is the first sentence of the text, and it is long enough. Here comes another one, which is longer still. " * 4
)


def info(**facts: Any) -> EngineInfo:
    values = {"name": "echo-tts", "preset_family": "echo", "sample_rate": SAMPLE_RATE, "device": "cpu"}
    return EngineInfo(**{**values, "backend": "fake", "license": "none", **facts})


def decoded(data: bytes) -> tuple[Audio, int]:
    """Samples and rate that a player makes of a file."""
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
        return np.concatenate(frames, axis=1)[0], file.streams.audio[0].rate


def burst(utterance: Utterance, block: int, count: int) -> Audio:
    """A second of sound that tells seeds apart, and then silence."""
    samples = np.zeros(count, np.float32)
    loud = min(count, SAMPLE_RATE)
    samples[:loud] = 0.1 + (utterance.seed % 7) / 20
    return samples


# -- a finished file


async def test_a_job_is_an_ogg_opus_file_of_24_khz_and_128_kbit(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        write_clip(worker.voices / "sub" / "anna.wav")
        answer = await worker.whole(text=TEXT, speaker_voice="sub/anna.wav", session_id="one", parameters={"seed": 5})
        assert list(worker.output.iterdir()) == []
    data = base64.b64decode(answer.pop("audio_base64"))
    samples, rate = decoded(data)
    duration = answer["metadata"].pop("duration")
    assert answer == {
        "status": "completed",
        "filename": "one.ogg",
        "metadata": {"sample_rate": 24_000, "codec": "opus", "bitrate": "128k", "seed": 5},
    }
    head = data[data.index(b"OpusHead") :]
    assert int.from_bytes(head[12:16], "little") == 24_000
    assert duration == pytest.approx(len(samples) / rate, abs=0.1)
    assert len(data) * 8 / duration < 160_000
    assert [utterance.voice.samples for utterance in worker.engine.script.spoken] == [44_100] * 4  # type: ignore[union-attr]


async def test_the_bit_rate_is_asked_for(tmp_path: Path) -> None:
    def noise(utterance: Utterance, block: int, count: int) -> Audio:
        return np.random.default_rng(block).uniform(-0.5, 0.5, count).astype(np.float32)

    with working(tmp_path, FakeScript(render=noise)) as worker:
        answer = await worker.whole(text=TEXT)
    assert len(base64.b64decode(answer["audio_base64"])) * 8 / answer["metadata"]["duration"] > 90_000


async def test_chunks_have_spaced_seeds(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        await worker.whole(text=TEXT, parameters={"seed": 11, "num_steps": 25, "sequence_length": 200})
        spoken = sorted(worker.engine.script.spoken, key=lambda utterance: utterance.seed)
    chunks = chunk_by_chars_and_duration(TEXT, 300, 10.0)
    assert len(chunks) > 2
    assert [utterance.seed for utterance in spoken] == [11 + 1000 * index for index in range(len(chunks))]
    assert [utterance.text for utterance in spoken] == [f"[S1] {chunk}" for chunk in chunks]
    assert {(u.plan.blocks[0].size, u.plan.blocks[0].steps, len(u.plan.blocks)) for u in spoken} == {(200, 25, 1)}
    assert {utterance.voice for utterance in spoken} == {None}


async def test_the_chunks_of_a_file_are_spoken_at_the_same_time(tmp_path: Path) -> None:
    together = threading.Barrier(CHUNKS_AT_A_TIME)

    def meet(utterance: Utterance, block: int, count: int) -> Audio:
        together.wait(PATIENCE_S)  # raises in the engine's thread if the others do not come
        return burst(utterance, block, count)

    with working(tmp_path, FakeScript(render=meet)) as worker:
        answer = await worker.whole(text=TEXT)
        assert answer["status"] == "completed"
        assert len(worker.engine.script.spoken) == CHUNKS_AT_A_TIME


async def test_the_seed_is_reported_even_when_it_was_drawn(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        seed = (await worker.whole(text="Hello."))["metadata"]["seed"]
        assert worker.engine.script.spoken[0].seed == seed
        assert (await worker.whole(text="Hello."))["metadata"]["seed"] != seed


@pytest.mark.parametrize("off", [(), ("enable_crossfade",), ("normalize_boundaries",)])
async def test_chunks_are_joined_by_the_golden_rule(tmp_path: Path, off: tuple[str, ...]) -> None:
    parameters = {"seed": 2, **{name: False for name in off}}
    with working(tmp_path, FakeScript(render=burst, audio_s_per_char=0.02), stream_handler=True) as worker:
        messages = await worker.stream(text=TEXT, stream=True, parameters=parameters)
        alone = []
        for index, chunk in enumerate(chunk_by_chars_and_duration(TEXT, 300, 10.0)):
            more = {**parameters, "seed": 2 + 1000 * index, "max_chars_per_chunk": 0}
            alone.append(pcm(await worker.stream(text=chunk, stream=True, parameters=more)))
    rules = echo_job({"text": TEXT, "parameters": parameters}).joint.rules(SAMPLE_RATE)
    wanted, got = join_chunks(alone, rules), pcm(messages)
    assert len(got) == len(wanted)
    assert np.abs(got - wanted).max() <= 2 / 32768


async def test_warnings_are_in_the_metadata(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        answer = await worker.whole(text="Hello.", parameters={"temperature": 1})
    assert answer["metadata"]["warnings"] == ["parameters.temperature: unknown, ignored"]


async def test_a_file_too_large_for_an_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.deliver.LARGEST_INLINE", 1000)
    with working(tmp_path) as worker:
        answer = await worker.whole(text=TEXT)
    assert answer["error"].startswith("text is too long: its file has more than")


async def test_an_inline_file_of_a_generator_is_no_larger_than_a_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.deliver.LARGEST_PIECE", 1000)
    with working(tmp_path, stream_handler=True) as worker:
        (answer,) = await worker.stream(text=TEXT)
        assert answer["error"].startswith("text is too long: its file has more than 0.001 MB")
        assert (await worker.whole(text=TEXT))["status"] == "completed"


# -- errors


async def test_errors_are_answers_in_plain_words(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        for data, error in {
            "missing": ({}, "text is required and must be a text that is not blank."),
            "voice": ({"text": "x", "speaker_voice": "no.wav"}, "speaker_voice 'no.wav' not found."),
            "stream": (
                {"text": "x", "stream": True},
                "stream must be false: this worker answers in one piece. Start it with STREAM_HANDLER=1.",
            ),
            "emotion": ({"text": "x", "emo_text": "sad"}, "emo_text is not supported: echo-tts takes no such emotion."),
        }.values():
            assert await worker.whole(**data) == {"status": "error", "error": error}  # type: ignore[arg-type]
        (worker.voices / "bad.wav").write_bytes(b"not audio at all")
        answer = await worker.whole(text="x", speaker_voice="bad.wav")
        assert answer == {"status": "error", "error": "The voice's audio is in no supported format."}
        assert await worker.speaker.run(worker.jobs.whole(["x"])) == {
            "status": "error",
            "error": "input must be an object.",
        }
        assert worker.open_requests == 0


@pytest.mark.parametrize("script", [FakeScript(fail_before=True), FakeScript(fail_after_blocks=0)])
async def test_a_failure_while_speaking_fails_the_job_and_leaves_nothing(tmp_path: Path, script: FakeScript) -> None:
    with working(tmp_path, script) as worker:
        answer = await worker.whole(text=TEXT)
        assert answer == {"status": "error", "error": "Generation failed."}
        assert worker.open_requests == 0
        assert list(worker.output.iterdir()) == []


async def test_what_nobody_foresaw_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    with working(tmp_path, output_dir=tmp_path / "missing") as worker:
        answer = await worker.whole(text="Hello.")
    assert answer == {"status": "error", "error": "The job failed; the worker's log says why."}


async def test_without_storage_the_missing_settings_are_named(tmp_path: Path) -> None:
    with working(tmp_path, inline_audio=False) as worker:
        answer = await worker.whole(text="Hello.")
    assert answer["error"] == (
        "The worker has no storage: S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET_NAME not set."
    )


# -- health


async def test_health_needs_neither_storage_nor_a_model(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        write_clip(worker.voices / "a.wav")
        write_clip(worker.voices / "sub" / "b.wav")
        checks = {"voices_dir": True, "output_dir": True, "audio_files": 2, "s3": False, "model": False}
        assert await worker.whole(action="health_check") == {"status": "healthy", "checks": checks}
        await worker.whole(text="Hello.")
        assert (await worker.whole(action="health_check"))["checks"]["model"] is True
        assert await worker.stream(action="health_check") == [
            {"status": "healthy", "checks": {**checks, "model": True}}
        ]
    with working(tmp_path, inline_audio=False) as worker:
        assert (await worker.whole(action="health_check"))["status"] == "unhealthy"


# -- streams


async def test_the_first_piece_leaves_after_the_first_block(tmp_path: Path) -> None:
    gate = threading.Event()

    def wait_at_second(utterance: Utterance, block: int, count: int) -> Audio:
        if block == 1:
            gate.wait(PATIENCE_S)
        return np.full(count, 0.25, np.float32)

    with working(tmp_path, FakeScript(render=wait_at_second), stream_handler=True) as worker:
        messages = worker.speaker.stream(worker.jobs.stream({"text": TEXT, "stream": True}))
        first = await anext(messages)
        await until(lambda: len(worker.engine.script.spoken) == 2)  # the next chunk is made ahead
        gate.set()
        rest = [message async for message in messages]
    assert first["status"] == "streaming"
    assert 0.3 < len(pcm([first])) / SAMPLE_RATE < 1.5
    assert [message["chunk"] for message in [first, *rest[:-1]]] == list(range(1, len(rest) + 1))
    last = rest[-1]
    assert (last["status"], last["format"], last["total_chunks"]) == ("complete", "pcm_16", len(rest))
    assert last["metadata"]["duration"] == pytest.approx(len(pcm([first, *rest])) / SAMPLE_RATE, abs=0.01)


async def test_an_index_stream_ends_with_the_contracts_message(tmp_path: Path) -> None:
    with working(tmp_path, info=info(sample_rate=SAMPLE_RATE), stream_handler=True) as worker:
        messages = await worker.stream(text=TEXT, stream=True, output_format="pcm_16", stream_max_chars_per_chunk=40)
    assert set(messages[0]) == {"status", "chunk", "format", "audio_chunk", "sample_rate"}
    assert messages[0]["sample_rate"] == SAMPLE_RATE
    assert messages[-1] == {"status": "complete", "format": "pcm_16", "total_chunks": len(messages) - 1}


async def test_no_piece_is_larger_than_the_platform_takes() -> None:
    async def samples() -> AsyncIterator[Audio]:
        yield np.full(SAMPLE_RATE * 20, 0.25, np.float32)
        yield np.zeros(0, np.float32)
        yield np.full(10, 0.25, np.float32)

    messages = [message async for message in pieces(samples(), SAMPLE_RATE)]
    sizes = [len(message["audio_chunk"]) for message in messages]
    assert 900_000 < max(sizes) < 1_000_000
    assert [message["chunk"] for message in messages] == [1, 2, 3, 4]
    assert len(pcm(messages)) == SAMPLE_RATE * 20 + 10


async def test_a_job_without_stream_is_one_message_of_a_generator(tmp_path: Path) -> None:
    with working(tmp_path, stream_handler=True) as worker:
        (answer,) = await worker.stream(text="Hello.")
        assert answer["status"] == "completed"
        assert (await worker.stream(text=""))[0]["status"] == "error"


async def test_a_stream_that_fails_ends_with_an_error(tmp_path: Path) -> None:
    with working(tmp_path, FakeScript(fail_after_blocks=1), stream_handler=True) as worker:
        messages = await worker.stream(text=TEXT, stream=True)
    *before, last = messages
    assert {message["status"] for message in before} == {"streaming"}
    assert last == {"status": "error", "error": "Generation failed."}


async def test_pauses_are_exact_silence_between_chunks(tmp_path: Path) -> None:
    script = FakeScript(render=lambda utterance, block, count: np.full(count, 0.25, np.float32), audio_s_per_char=0.02)
    with working(tmp_path, script, stream_handler=True) as worker:
        messages = await worker.stream(text=TEXT, stream=True, chunk_pause_ms=700, stream_max_chars_per_chunk=120)
    quiet = np.abs(pcm(messages)) < 1e-4
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(int), [0]])))
    long = [stop - start for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop - start > 20_000]
    assert len(long) == len(worker.engine.script.spoken) - 1
    assert all(0.7 * SAMPLE_RATE <= length < 0.85 * SAMPLE_RATE for length in long)


# -- emotions


@pytest.mark.parametrize("server", [{"engine": "indextts"}, {"engines": ("indextts", "echo")}])
async def test_a_job_that_does_not_tell_is_one_of_the_first_engine(tmp_path: Path, server: dict[str, Any]) -> None:
    with working(tmp_path, server=server) as worker:
        await worker.whole(text=TEXT)
        spoken = sorted(worker.engine.script.spoken, key=lambda utterance: utterance.seed)
    chunks = chunk_by_chars(TEXT, 300)
    assert chunks != chunk_by_chars_and_duration(TEXT, 300, 10.0)
    assert [utterance.text.removeprefix("[S1] ") for utterance in spoken] == chunks


async def test_an_engine_that_declares_emotions_gets_them(tmp_path: Path) -> None:
    emotional = info(emotions=frozenset({"emo_vector", "emo_audio_prompt"}))
    with working(tmp_path, info=emotional) as worker:
        write_clip(worker.voices / "anna.wav", 1.0)
        write_clip(worker.voices / "moods" / "sad.wav", 2.0)
        vector = [0.0, 0, 0.8, 0, 0, 0, 0, 0.2]
        for emotion in ({"emo_vector": vector}, {"emo_audio_prompt": "moods/sad.wav"}):
            answer = await worker.whole(text="Hello.", speaker_voice="anna.wav", **emotion)
            assert answer["status"] == "completed"
        by_vector, by_clip = worker.engine.script.spoken
        assert by_vector.emotion is not None
        assert by_vector.emotion.vector == tuple(vector)
        assert (by_clip.voice.samples, by_clip.emotion_voice.samples) == (44_100, 88_200)  # type: ignore[union-attr]
        missing = await worker.whole(text="Hello.", emo_audio_prompt="no.wav")
        assert missing["error"] == "emo_audio_prompt 'no.wav' not found."
        refused = await worker.whole(text="Hello.", emo_text="sad")
        assert refused["error"].startswith("emo_text is not supported")


async def test_an_emotions_clip_that_goes_before_it_is_read_is_named_by_its_own_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working(tmp_path, info=info(emotions=frozenset({"emo_audio_prompt"}))) as worker:
        write_clip(worker.voices / "sad.wav")
        monkeypatch.setattr("worker.jobs.requests", _after_deleting(worker.voices / "sad.wav"))
        answer = await worker.whole(text="Hello.", emo_audio_prompt="sad.wav")
    assert answer["error"] == "emo_audio_prompt 'sad.wav' not found."


def _after_deleting(clip: Path) -> Any:
    def deleting(*arguments: Any) -> Any:
        clip.unlink()
        return requests(*arguments)

    return deleting


# -- cancellation and concurrency


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_job_stops_at_once_and_the_next_is_served(tmp_path: Path, stream: bool) -> None:
    script = FakeScript(render=(held := Held()))
    with working(tmp_path, script, stream_handler=True, jobs=1) as worker:
        task = asyncio.create_task(_read(worker, stream))
        await until(lambda: bool(script.spoken))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: worker_is_idle(worker))
        held.go_on()
        await until(lambda: len(script.cancelled) == len(script.spoken))
        assert (await worker.whole(text="The next one."))["status"] == "completed"
        assert list(worker.output.iterdir()) == []


def worker_is_idle(worker: Worker) -> bool:
    return worker.open_requests == 0


async def _read(worker: Worker, stream: bool) -> None:
    if stream:
        await worker.stream(text=TEXT, stream=True)
    else:
        await worker.whole(text=TEXT)


async def test_a_reader_that_is_cancelled_between_two_pieces_stops_the_work(tmp_path: Path) -> None:
    """The SDK is at sending a piece when the platform stops the job; its generator is never resumed or closed."""
    gate, kept, reading = threading.Event(), [], asyncio.Event()

    def wait_at_second(utterance: Utterance, block: int, count: int) -> Audio:
        if block == 1:
            gate.wait(PATIENCE_S)
        return np.full(count, 0.25, np.float32)

    with working(tmp_path, FakeScript(render=wait_at_second), stream_handler=True) as worker:

        async def sdk() -> None:
            messages = worker.speaker.stream(worker.jobs.stream({"text": TEXT, "stream": True}))
            kept.append(messages)
            await anext(messages)
            reading.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(sdk())
        await reading.wait()
        assert not worker_is_idle(worker)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: worker_is_idle(worker))  # while the engine is still at its block
        assert not gate.is_set()
        gate.set()
        await kept[0].aclose()


async def test_as_many_jobs_are_spoken_at_a_time_as_are_allowed(tmp_path: Path) -> None:
    now, most = 0, 0
    script = FakeScript(block_s=0.02)

    with working(tmp_path, script, jobs=2) as worker:
        inner = worker.jobs._samples

        async def counted(*arguments: Any) -> Any:
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            try:
                async for part in inner(*arguments):
                    yield part
            finally:
                now -= 1

        worker.jobs._samples = counted  # type: ignore[method-assign,assignment]
        answers = await asyncio.gather(*(worker.whole(text="Hello there.") for _ in range(6)))
    assert {answer["status"] for answer in answers} == {"completed"}
    assert most == 2


# -- loading


async def test_a_load_that_fails_is_tried_again_with_the_next_job(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        good, tries = worker.speaker._load_engine, 0

        def failing(settings: Any, gate: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise OSError("/secret/path is full")
            assert good is not None
            return good(settings, gate)

        worker.speaker._runtime._loaders = [failing]
        worker.speaker._load_engine = failing
        answer = await worker.whole(text="Hello.")
        assert answer["error"] == "The model could not be loaded; the worker's log says why."
        health = await worker.whole(action="health_check")
        assert (health["status"], health["checks"]["model"]) == ("unhealthy", False)
        assert (await worker.whole(text="Hello."))["status"] == "completed"


class CloningEngine(FakeEngine):
    """Has no voice of its own."""

    def speak(self, utterance: Utterance) -> FrameStream:
        if utterance.voice is not None:
            return super().speak(utterance)
        stream = FrameStream()
        stream.finish(BadRequest("voice: must be given.", param="voice"))
        return stream

    def warm_up(self, utterance: Utterance) -> None:
        for _ in self.speak(utterance):
            pass


async def test_an_engine_that_needs_a_voice_serves_though_it_is_not_warmed_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with working(tmp_path) as worker:
        worker.engine = CloningEngine()
        await worker.speaker.run(worker.jobs.warm_up())
        assert caplog.text.count("not warmed up: voice: must be given.") == 2  # at the start, and this
        write_clip(worker.voices / "anna.wav")
        assert (await worker.whole(text="Hello."))["error"] == "speaker_voice must be given."
        answer = await worker.whole(text="Hello.", speaker_voice="anna.wav")
        assert answer["status"] == "completed"


async def test_the_warm_up_speaks_like_a_job(tmp_path: Path) -> None:
    with working(tmp_path) as worker:
        await worker.speaker.run(worker.jobs.warm_up())
        assert [u.plan.blocks[0].steps for u in worker.engine.script.spoken] == [40, 40]
        assert list(worker.output.iterdir()) == []
