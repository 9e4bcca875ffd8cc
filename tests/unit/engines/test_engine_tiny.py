"""The embedded model behind the real scheduler: whoever else is being served, an utterance sounds the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.engines.block import BlockEngine
from echo.engines.load import load_engine
from echo.errors import BadRequest, TooLarge
from echo.model.echo import EchoModel, EchoVoice
from echo.settings import HOME, load_settings
from echo.types import SAMPLES_PER_LATENT, Audio, BlockPlan, BlockSpec, SamplerParams, TailRules, Utterance, VoiceState
from echo.vad import SilenceGate, SilenceRules, Span

pytestmark = pytest.mark.slow

Voices = dict[str, VoiceState | None]

TEXTS = (
    "[S1] Yes.",
    "[S1] The boat crossed the river at noon.",
    "[S1] A longer sentence goes on and on, until it comes to its end late in the day.",
)
#: Longer than anything here takes on a busy machine: only a failing test waits for it.
PATIENCE_S = 60.0
#: Only rejected jobs have a block of this size.
REJECTED = 12
GATE = SilenceRules(threshold_ms=500.0, max_rerolls=2)


def silences(samples: Audio, rate: int) -> Sequence[Span]:
    """Find nothing but silence in every block of REJECTED latents, and none in anything else."""
    return [(0.0, len(samples) / rate)] if len(samples) == REJECTED * SAMPLES_PER_LATENT else []


def utterance(text: int, seed: int, *blocks: tuple[int, int], voice: VoiceState | None = None) -> Utterance:
    plan = BlockPlan(
        blocks=tuple(BlockSpec(size=size, steps=steps, truncation=0.85) for size, steps in blocks),
        params=SamplerParams(cfg_scale_text=1.5, cfg_scale_speaker=0.0, cfg_min_t=0.0),
        tail=TailRules(early_stop_on_zero=False),
    )
    return Utterance(text=TEXTS[text], plan=plan, seed=seed, voice=voice)


def copy(wanted: Utterance) -> Utterance:
    """Return the same request with a listener of its own."""
    return replace(wanted, listener=type(wanted.listener)())


def speak(engine: BlockEngine, *wanted: Utterance) -> list[Audio]:
    """Speak utterances at the same time: the device begins when it has all of them."""
    go_on = threading.Event()

    def hold() -> Generator[None, None, None]:
        assert go_on.wait(PATIENCE_S)
        yield

    held = engine._scheduler.submit_sliced(hold())
    streams = [engine.speak(copy(each)) for each in wanted]
    go_on.set()
    held.result(PATIENCE_S)
    return [np.concatenate([frame.samples for frame in stream]) for stream in streams]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def clip(name: str) -> Audio:
    samples, _ = soundfile.read(HOME / "audio_prompts" / f"{name}.flac", dtype="float32")
    return np.asarray(samples)


@pytest.fixture(scope="module")
def engine() -> Iterator[BlockEngine]:
    made = load_engine(load_settings({}, model_repo="tiny", model_dtype="float32"), SilenceGate(GATE, silences))
    yield made
    made.close()


@pytest.fixture(scope="module")
def lock_step() -> Iterator[BlockEngine]:
    made = load_engine(load_settings({}, model_repo="tiny", model_dtype="float32", max_concurrent=1), None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def voices(engine: BlockEngine) -> Voices:
    return {"": None, **{name: engine.encode_voice(clip(name)).result() for name in ("tiny_dan", "tiny_anna")}}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Utterance]:
    sizes = draw(st.sampled_from([(16,), (16, 16), (8, 16, 16), (32,), (8, 32)]))
    blocks = tuple(
        BlockSpec(size=size, steps=draw(st.integers(1, 2)), truncation=draw(st.sampled_from([None, 0.85])))
        for size in sizes
    )
    params = SamplerParams(
        cfg_scale_text=draw(st.sampled_from([0.0, 1.5])),
        cfg_scale_speaker=draw(st.sampled_from([0.0, 2.0])),
        cfg_min_t=draw(st.sampled_from([0.0, 0.6])),
        speaker_kv_scale=draw(st.sampled_from([None, 1.3])),
    )
    plan = BlockPlan(blocks=blocks, params=params, tail=TailRules(early_stop_on_zero=draw(st.booleans())))
    voice = draw(st.sampled_from(["", "tiny_dan", "tiny_anna"]))
    text = draw(st.sampled_from(TEXTS))
    return voice, Utterance(text=text, plan=plan, seed=draw(st.integers(0, 9)), chunk=draw(st.integers(0, 2)))


@settings(max_examples=12, deadline=None)
@given(mix=st.lists(requests(), min_size=2, max_size=6), disturbed=st.lists(st.booleans(), min_size=6, max_size=6))
def test_an_utterance_sounds_the_same_alone_and_among_others(
    mix: Sequence[tuple[str, Utterance]],
    disturbed: Sequence[bool],
    engine: BlockEngine,
    lock_step: BlockEngine,
    voices: Voices,
) -> None:
    """Alone on an engine that takes one at a time; then beside others, some of which leave and some are rejected."""
    wanted = [replace(each, voice=voices[voice]) for voice, each in mix]
    alone = [speak(lock_step, each)[0] for each in wanted]
    streams, leaving = [], []
    for each, disturb in zip(wanted, disturbed, strict=False):
        if disturb:
            leaving.append(engine.speak(utterance(1, each.seed, (16, 2), (32, 40))))
            leaving.append(engine.speak(utterance(2, each.seed, (REJECTED, 1), (16, 40))))
        streams.append(engine.speak(copy(each)))
    for stream in leaving:
        next(stream)
        stream.cancel()
    for one, stream in zip(alone, streams, strict=True):
        np.testing.assert_array_equal(one, np.concatenate([frame.samples for frame in stream]))


def test_utterances_share_the_steps_of_the_device(engine: BlockEngine, voices: Voices) -> None:
    wanted = [utterance(i % 3, i, (16, 20), voice=voices["tiny_dan"]) for i in range(4)]
    before = engine._scheduler.ticks
    alone = [speak(engine, each)[0] for each in wanted]
    between = engine._scheduler.ticks
    together = speak(engine, *wanted)
    assert engine._scheduler.ticks - between < 0.6 * (between - before)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_at_a_time_sounds_like_all_at_once(engine: BlockEngine, lock_step: BlockEngine) -> None:
    wanted = [utterance(i % 3, i, (16, 2), (32, 2)) for i in range(4)]
    assert lock_step.info.concurrent == 1
    for one, other in zip(speak(lock_step, *wanted), speak(engine, *wanted), strict=True):
        np.testing.assert_array_equal(one, other)


def test_neighbours_that_are_cancelled_change_nothing(engine: BlockEngine, voices: Voices) -> None:
    subject = utterance(1, 5, (16, 4), (16, 30), (32, 30), voice=voices["tiny_anna"])
    alone = speak(engine, subject)[0]
    neighbours = [engine.speak(utterance(2, seed, (16, 4), (16, 30), (32, 30))) for seed in range(3)]
    stream = engine.speak(copy(subject))
    for neighbour in neighbours:
        next(neighbour)
        neighbour.cancel()
    np.testing.assert_array_equal(np.concatenate([frame.samples for frame in stream]), alone)


def test_neighbours_that_are_generated_again_change_nothing(engine: BlockEngine, voices: Voices) -> None:
    subject = utterance(2, 5, (16, 3), (16, 3), voice=voices["tiny_dan"])
    rejected = utterance(1, 6, (REJECTED, 3), (16, 3), (16, 3), voice=voices["tiny_anna"])
    alone = [speak(engine, each)[0] for each in (subject, rejected)]
    streams = [engine.speak(copy(each)) for each in (subject, rejected)]
    together = [np.concatenate([frame.samples for frame in stream]) for stream in streams]
    assert [stream.stats.rerolls for stream in streams] == [0, GATE.max_rerolls]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_cancelled_utterance_takes_no_more_steps(engine: BlockEngine) -> None:
    stream = engine.speak(utterance(2, 0, (16, 1), (32, 100), (32, 100), (32, 100)))
    next(stream)
    stream.cancel()
    before = engine._scheduler.ticks
    wait_for(lambda: engine._scheduler.jobs == 0)
    assert engine._scheduler.ticks - before <= 2


def test_memory_for_one_utterance_makes_the_others_wait_and_changes_nothing() -> None:
    wanted = [utterance(2, i, (16, 2), (32, 2)) for i in range(4)]
    roomy = load_engine(load_settings({}, model_repo="tiny", model_dtype="float32"), None)
    narrow = load_engine(load_settings({}, model_repo="tiny", model_dtype="float32", kv_budget_mb=5), None)
    try:
        for engine in (roomy, narrow):
            engine.warm_up(utterance(0, 0, (16, 1)))
        needed = roomy._model.demand(wanted[0], roomy._model.tokenize(wanted[0].text)).nbytes
        assert needed <= 5 * 2**20 < 2 * needed
        assert narrow.workload().max_nbytes == 5 * 2**20 < roomy.workload().max_nbytes
        before = narrow._scheduler.ticks
        for one, other in zip(speak(roomy, *wanted), speak(narrow, *wanted), strict=True):
            np.testing.assert_array_equal(one, other)
        assert narrow._scheduler.ticks - before >= 4 * 4  # no step was shared
        with pytest.raises(TooLarge):
            narrow.prepare(utterance(0, 0, (256, 1)))
    finally:
        roomy.close()
        narrow.close()


def test_seed_chunk_text_and_voice_each_change_the_audio(engine: BlockEngine, voices: Voices) -> None:
    plain = utterance(1, 1, (32, 2), voice=voices["tiny_dan"])
    others = [
        replace(plain, seed=3),
        replace(plain, chunk=1),
        replace(plain, text=TEXTS[2]),
        replace(plain, voice=voices["tiny_anna"]),
        replace(plain, voice=None),
    ]
    first, *rest = speak(engine, plain, *others)
    for other in rest:
        assert not np.array_equal(first, other)


def test_a_voice_is_encoded_alike_every_time_and_tells_its_size(engine: BlockEngine, voices: Voices) -> None:
    again = engine.encode_voice(clip("tiny_dan")).result()
    assert 0 < again.nbytes < 50_000_000
    wanted = utterance(1, 1, (32, 2))
    one, other = speak(engine, replace(wanted, voice=voices["tiny_dan"]), replace(wanted, voice=again))
    np.testing.assert_array_equal(one, other)


def test_a_voice_that_is_encoded_between_the_steps_of_others_is_the_same(engine: BlockEngine) -> None:
    reference = np.tile(clip("tiny_dan"), 4)
    model = engine._model
    assert isinstance(model, EchoModel)
    slices = sum(1 for _ in model.encode_voice_in_slices(reference))
    assert slices >= len(reference) // SAMPLES_PER_LATENT // model.autoencoder.max_piece
    alone = model.encode_voice(reference)
    streams = [engine.speak(utterance(1, seed, (16, 30), (32, 30))) for seed in range(2)]
    among_others = engine.encode_voice(reference).result(PATIENCE_S)
    for stream in streams:
        list(stream)
    assert isinstance(among_others, EchoVoice)
    assert torch.equal(among_others.kv(), alone.kv())


def test_a_clip_too_short_for_a_voice_is_refused(engine: BlockEngine) -> None:
    with pytest.raises(BadRequest):
        engine.encode_voice(np.zeros(100, np.float32)).result(PATIENCE_S)
    assert engine.healthy()


def test_the_engine_tells_what_it_is(engine: BlockEngine) -> None:
    info = engine.info
    assert (info.name, info.preset_family, info.device) == ("echo-tiny", "tiny", "cpu")
    assert (info.max_latents, info.chunk_rules.max_chars) == (256, 150)
