"""Speech of a text that is still being written, against an engine whose audio names its text."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.audio.join import JoinRules
from echo.emotion import FIELDS
from echo.engines.fake import FakeScript
from echo.errors import BadRequest, EngineFailed, Overloaded, VoiceNotFound
from echo.session import (
    MAX_WAITING_CHARS,
    PassageDone,
    PassageFailed,
    PassageStarted,
    SessionEvent,
    SpeechSession,
)
from echo.telemetry import Metrics
from echo.text import SpeakRules
from echo.types import (
    Audio,
    AudioFormat,
    Emotion,
    Encoding,
    SpeechRequest,
    Utterance,
    VoiceRef,
)
from tests.unit.test_service import PATIENCE_S, Held, outcomes, speech, until

TEXT = "Well, it has stopped raining. Shall we go for a walk? I would like that, if you have time."
F32 = AudioFormat(encoding=Encoding.F32)
SENTENCES = SpeakRules(sentences_from=0)


#: Samples of a word: 50 ms.
WORD = 2205


def level_of(word: str) -> float:
    """Return the level that stands for a word, one of 4,001 between 0.1 and 0.9."""
    return float(np.float32(0.1 + zlib.crc32(word.encode()) % 4001 / 5000))


def render(utterance: Utterance, block: int, count: int) -> Audio:
    """Say every word of the text as a constant level; the texts here fit into the plan's first block."""
    words = [word for word in utterance.text.split() if word != "[S1]"] if block == 0 else []
    return np.concatenate([np.zeros(0, np.float32), *(np.full(WORD, level_of(word), np.float32) for word in words)])


def words_of(samples: Audio, known: Sequence[str]) -> list[str]:
    """Return the words that the samples say; those of ``known`` by their names."""
    names = {level_of(word): word for word in known}
    edges = [0, *(np.flatnonzero(np.diff(samples)) + 1), len(samples)]
    said: list[str] = []
    for start, end in itertools.pairwise(edges):
        if end - start > WORD // 2 and samples[start] != 0:  # what is shorter is faded
            said += [names.get(float(samples[start]), "?")] * round((end - start) / WORD)
    return said


def request(**fields: Any) -> SpeechRequest:
    return SpeechRequest(**{"text": "", "voice": VoiceRef(name="tiny_anna"), "format": F32, **fields})


async def everything(session: SpeechSession) -> list[SessionEvent]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in session]


def audio(events: Sequence[SessionEvent]) -> Audio:
    return np.frombuffer(b"".join(event for event in events if isinstance(event, bytes)), np.float32)


def kinds(events: Sequence[SessionEvent]) -> list[str]:
    """Names of the events; consecutive audio counts once."""
    names = [type(event).__name__ for event in events]
    return [name for at, name in enumerate(names) if at == 0 or name != "bytes" or names[at - 1] != "bytes"]


async def test_a_text_in_pieces_is_spoken_in_passages() -> None:
    script = FakeScript()
    async with speech(script) as service:
        session = service.session(request())
        for start in range(0, len(TEXT), 7):
            session.feed(TEXT[start : start + 7])
        session.end()
        events = await everything(session)
        assert service.admission.open == 0
    started = [event for event in events if isinstance(event, PassageStarted)]
    done = [event for event in events if isinstance(event, PassageDone)]
    assert "".join(event.source for event in started) == TEXT
    assert started[0].source == "Well,"  # the first clause, so that something is heard soon
    assert [event.index for event in started] == [event.index for event in done] == list(range(len(done)))
    assert len({utterance.seed for utterance in script.spoken}) == 1
    assert [utterance.chunk for utterance in script.spoken] == list(range(len(script.spoken)))
    assert len({id(utterance.listener) for utterance in script.spoken}) == 1
    # The small first block, for each of them.
    assert all(utterance.plan.blocks[0].size == 32 for utterance in script.spoken)
    length = len(audio(events)) / 44_100
    assert done[-1].end_s == pytest.approx(length, abs=1e-3)
    for before, after in itertools.pairwise(done):
        assert before.end_s == after.start_s
        assert before.speech_start_s is not None
        assert before.speech_end_s is not None
        assert before.start_s <= before.speech_start_s < before.speech_end_s <= before.end_s


async def test_times_of_words_are_in_seconds_of_the_session() -> None:
    async with speech() as service:
        session = service.session(request(times=True, speed=1.25))
        session.feed(TEXT)
        session.end()
        done = [event for event in await everything(session) if isinstance(event, PassageDone)]
        unasked = service.session(request(speed=1.25))
        unasked.feed(TEXT)
        unasked.end()
        others = [event for event in await everything(unasked) if isinstance(event, PassageDone)]
    words = [word for event in done for word in event.spoken().words()]
    assert [word.text for word in words] == TEXT.split()
    edges = [edge for word in words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    assert edges[-1] <= done[-1].end_s
    for event, other in zip(done, others, strict=True):
        assert other.times is None
        assert event.times is not None
        assert event.times.method == other.spoken().method == "estimate"
        # Not asked, what the passage before has left behind counts as its sound.
        assert -0.02 < event.spoken().start_s - other.spoken().start_s < 0.3
        assert event.spoken().end_s == pytest.approx(other.spoken().end_s, abs=0.02)


async def test_passages_end_where_their_speech_does_at_any_speed() -> None:
    ends = {}
    async with speech() as service:
        for speed in (1.0, 0.5):
            session = service.session(request(speed=speed), SENTENCES)
            session.feed(TEXT)
            session.end()
            events = await everything(session)
            ends[speed] = [event.end_s for event in events if isinstance(event, PassageDone)]
            assert len(audio(events)) / 44_100 == pytest.approx(ends[speed][-1], abs=1e-3)
    assert len(ends[1.0]) > 1
    assert [end * 0.5 for end in ends[0.5]] == pytest.approx(ends[1.0], abs=0.01)


async def test_speaking_begins_before_the_text_has_ended() -> None:
    async with speech() as service:
        session = service.session(request(), SENTENCES)
        session.feed("One sentence is here. And")
        assert isinstance(await anext(session), PassageStarted)
        assert isinstance(await anext(session), bytes)
        session.feed(" another")
        session.close()
        assert await everything(session) == []


async def test_a_slot_is_held_only_while_there_is_something_to_speak() -> None:
    async with speech(script := FakeScript()) as service:
        session = service.session(request(), SENTENCES)
        reader = asyncio.create_task(everything(session))
        session.feed("This text is not a sentence yet")
        await asyncio.sleep(0.05)
        assert service.admission.open == 0
        script.render = first = Held()
        session.feed(". But now")
        await until(lambda: service.admission.open == 1)
        first.go_on()
        await until(lambda: service.admission.open == 0 and not session.busy)
        script.render = second = Held()
        session.end()
        await until(lambda: service.admission.open == 1)
        second.go_on()
        events = await reader
        assert service.admission.open == 0
    assert [event.source for event in events if isinstance(event, PassageDone)] == [
        "This text is not a sentence yet.",
        " But now",
    ]


async def test_a_flush_is_answered_after_its_audio_even_if_there_was_none() -> None:
    async with speech() as service:
        session = service.session(request(), SpeakRules())
        session.flush()
        session.feed("Half a sen")
        session.flush()
        session.flush()
        session.end()
        events = await everything(session)
    assert kinds(events) == ["Flushed", "PassageStarted", "bytes", "PassageDone", "Flushed", "Flushed"]
    assert [event.flushed for event in events if isinstance(event, PassageDone)] == [True]


async def test_a_trigger_speaks_what_can_be_spoken() -> None:
    async with speech() as service:
        session = service.session(request(), SpeakRules())
        session.feed("First this, then th")
        session.trigger()
        session.feed("at")
        session.end()
        events = await everything(session)
    assert [event.source for event in events if isinstance(event, PassageDone)] == ["First this,", " then that"]


async def test_overdue_text_is_spoken_without_more() -> None:
    async with speech() as service:
        session = service.session(request(), SpeakRules(max_delay_s=0.05))
        session.feed("Not even a sentence")
        assert isinstance(await anext(session), PassageStarted)
        session.close()


async def test_nothing_to_speak_is_no_audio() -> None:
    async with speech() as service:
        session = service.session(request())
        session.feed(" ... ")
        session.end()
        assert await everything(session) == []


async def test_a_stage_direction_is_a_short_silence() -> None:
    async with speech() as service:
        session = service.session(request(), SpeakRules())
        session.feed("*sighs*")
        session.flush()
        session.end()
        events = await everything(session)
    assert kinds(events) == ["PassageStarted", "bytes", "PassageDone", "Flushed"]
    assert len(audio(events)) == 4410


async def test_a_wav_turn_is_one_file() -> None:
    async with speech() as service:
        session = service.session(request(format=AudioFormat(encoding=Encoding.WAV, unsized=True)), SENTENCES)
        session.feed("One. Two. Three. ")
        session.end()
        events = await everything(session)
    data = b"".join(event for event in events if isinstance(event, bytes))
    assert data.startswith(b"RIFF")
    assert data.count(b"RIFF") == 1


async def test_passages_may_be_files_of_their_own() -> None:
    async with speech() as service:
        session = service.session(
            request(format=AudioFormat(encoding=Encoding.FLAC)), SpeakRules(sentences_from=0, single=True), files=True
        )
        session.feed("One. Two. Three. ")
        session.end()
        events = await everything(session)
    files: list[bytes] = []
    for event in events:
        if isinstance(event, PassageStarted):
            files.append(b"")
        elif isinstance(event, bytes):
            files[-1] += event
    assert [file[:4] for file in files] == [b"fLaC"] * 3
    done = [event for event in events if isinstance(event, PassageDone)]
    assert done[0].end_s == done[1].start_s > 0


async def test_a_passages_file_states_its_length() -> None:
    async with speech() as service:
        rules = SpeakRules(sentences_from=0, single=True)
        session = service.session(request(format=AudioFormat(encoding=Encoding.FLAC)), rules, files=True)
        session.feed("One. Two and three.")
        session.end()
        file, lengths = b"", []
        async with asyncio.timeout(PATIENCE_S):
            async for event in session:
                if isinstance(event, bytes):
                    file += event
                elif isinstance(event, PassageDone):
                    info = soundfile.info(io.BytesIO(session.whole(file)))
                    lengths.append((info.frames / info.samplerate, event.end_s - event.start_s))
                    file = b""
    assert len(lengths) == 2
    assert all(told == pytest.approx(heard, abs=1e-3) for told, heard in lengths)


@pytest.mark.parametrize("slow", ["resolve", "encoded"])
@pytest.mark.parametrize("cancel", [False, True])
async def test_closing_ends_the_wait_for_a_voice_that_is_being_read(slow: str, cancel: bool) -> None:
    metrics = Metrics()
    async with speech(metrics=metrics) as service:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def wait(voice: object, client: str = "") -> None:
            asked.set()
            await answer.wait()

        setattr(service, slow, wait)
        session = service.session(request(), SENTENCES)
        session.feed("One. And two.")
        reader = asyncio.create_task(everything(session))
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        session.close()
        if cancel:
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        else:
            assert kinds(await reader) == ["PassageStarted"]
        assert service.admission.open == 0
        assert outcomes(metrics) == {"cancelled": 1}


@pytest.mark.parametrize(
    "fields",
    [{"preset": "nothing"}, {"format": AudioFormat(sample_rate=1)}, {"speed": 9.0}],
)
async def test_what_cannot_be_used_is_refused_when_the_session_opens(fields: dict[str, Any]) -> None:
    async with speech() as service:
        with pytest.raises(BadRequest):
            service.session(request(**fields))
        assert service.admission.open == 0


async def test_an_unknown_voice_fails_each_passage_and_holds_nothing() -> None:
    async with speech() as service:
        session = service.session(request(voice=VoiceRef(name="nobody")), SENTENCES)
        session.feed("One. Two. ")
        session.end()
        events = await everything(session)
        assert service.admission.open == 0
    failures = [event for event in events if isinstance(event, PassageFailed)]
    assert failures
    assert all(isinstance(event.error, VoiceNotFound) for event in failures)


async def test_an_emotion_reaches_the_engine_with_its_clip_encoded() -> None:
    async with speech(script := FakeScript(), emotions=FIELDS.values()) as service:
        emotion = Emotion(clip=VoiceRef(name="tiny_dan"), alpha=0.5)
        session = service.session(request(text=TEXT, emotion=emotion), SENTENCES)
        session.end()
        await everything(session)
    assert len(script.spoken) > 1
    for utterance in script.spoken:
        assert utterance.emotion == emotion
        assert utterance.emotion_voice not in (None, utterance.voice)


async def test_a_failed_passage_costs_only_itself() -> None:
    script = FakeScript(fail_before=True)
    async with speech(script) as service:
        session = service.session(request(), SpeakRules())
        reader = asyncio.create_task(everything(session))
        session.feed("One.")
        session.flush()
        await until(lambda: bool(script.spoken) and not session.busy)
        script.fail_before = False
        session.feed("Two.")
        session.end()
        events = await reader
    assert kinds(events) == [
        "PassageStarted",
        "PassageFailed",
        "Flushed",
        "PassageStarted",
        "bytes",
        "PassageDone",
    ]
    assert isinstance(next(event for event in events if isinstance(event, PassageFailed)).error, EngineFailed)


async def test_a_busy_server_refuses_the_first_passage() -> None:
    async with speech(queue=0) as service:
        ticket = service.admission.enter()
        session = service.session(request(), SENTENCES)
        session.feed("One. ")
        session.end()
        events = await everything(session)
        ticket.release()
    assert isinstance(events[-1], PassageFailed)
    assert isinstance(events[-1].error, Overloaded)


async def test_a_turn_that_has_begun_waits_for_a_slot() -> None:
    async with speech(FakeScript(render=(held := Held())), queue=0) as service:
        session = service.session(request(), SENTENCES)
        reader = asyncio.create_task(everything(session))
        session.feed("One. And")
        await until(lambda: service.admission.open == 1)
        held.go_on()
        await until(lambda: service.admission.open == 0)
        ticket = service.admission.enter()
        session.feed(" two.")
        session.end()
        await asyncio.sleep(0.1)
        assert not reader.done()
        ticket.release()
        events = await reader
    assert not any(isinstance(event, PassageFailed) for event in events)
    assert len([event for event in events if isinstance(event, PassageDone)]) == 2


async def test_too_much_text_is_refused_and_not_taken() -> None:
    async with speech() as service:
        session = service.session(request(), SpeakRules())
        with pytest.raises(Overloaded):
            session.feed("x" * (MAX_WAITING_CHARS + 1))
        assert session.waiting_chars == 0
        session.close()
        with pytest.raises(BadRequest):
            session.feed("after the end")


async def test_the_pause_between_passages_is_that_of_the_text_and_left_out_after_a_silence() -> None:
    async with speech() as service:
        together = service.session(request(seed=1), SpeakRules(sentences_from=0, single=True))
        together.feed("One two. Three four. ")
        together.end()
        joined = audio(await everything(together))
        late = service.session(request(seed=1), SENTENCES)
        heard: list[SessionEvent] = []

        async def listen() -> None:
            async for event in late:
                heard.append(event)

        reader = asyncio.create_task(listen())
        late.feed("One two. Th")
        await until(lambda: any(isinstance(event, PassageDone) for event in heard))
        await asyncio.sleep(0.9)  # longer than the first sentence takes to play
        late.feed("ree four. ")
        late.end()
        await asyncio.wait_for(reader, PATIENCE_S)
        apart = audio(heard)
    pause = JoinRules().pause_ms / 1000 * 44_100
    assert len(joined) - len(apart) == pytest.approx(pause, abs=0.13 * 44_100)
    assert len(joined) > len(apart)


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    edges = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def spoken_words(script: FakeScript) -> list[str]:
    return [word for utterance in script.spoken for word in utterance.text.replace("[S1]", "").split()]


def bare(word: str) -> str:
    """A word without what the text package may change of it."""
    return word.strip(".,?!").lower()


TEXTS = [
    TEXT,
    "Dr. Smith paid 3.5 dollars, e.g. for tea... Really?! Yes.",
    "No end in sight and no marks at all",
    "One. Two. Three. Four. Five. Six. Seven.",
]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    cuts=st.lists(st.integers(0, 200), max_size=12),
    rules=st.sampled_from([SpeakRules(), SENTENCES, SpeakRules(sentences_from=15, clauses_from=25, eager=True)]),
    flushes=st.sets(st.integers(0, 12), max_size=2),
)
def test_any_split_gives_the_words_of_the_text(
    text: str, cuts: list[int], rules: SpeakRules, flushes: set[int]
) -> None:
    async def run() -> None:
        script = FakeScript(render=render)
        async with speech(script) as service:
            session = service.session(request(), rules)
            parts = pieces(text, cuts)
            for number, piece in enumerate(parts):
                session.feed(piece)
                if number in flushes and text[len("".join(parts[: number + 1])) :][:1] == " ":
                    session.flush()  # not within a word
                await asyncio.sleep(0)
            session.end()
            events = await everything(session)
        # What the engine was given, with the spelling that the text package gives it, and what came out of it.
        assert words_of(audio(events), spoken_words(script)) == spoken_words(script)
        whole = "".join(event.source for event in events if isinstance(event, PassageStarted))
        assert whole.split() == text.split()
        assert [bare(word) for word in spoken_words(script)] == [bare(word) for word in text.split()]

    asyncio.run(run())


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(steps=st.integers(0, 12), seed=st.integers(0, 1000))
def test_a_cancel_at_any_moment_says_a_beginning_of_the_text_and_frees_everything(steps: int, seed: int) -> None:
    async def run() -> None:
        script = FakeScript(render=render)
        async with speech(script) as service:
            session = service.session(request(), SENTENCES)
            heard: list[SessionEvent] = []
            drawn = random.Random(seed)
            for piece in pieces(TEXT, [drawn.randrange(90) for _ in range(5)]):
                session.feed(piece)
            session.end()
            for _ in range(steps):
                event = await anext(session, None)
                if event is None:
                    break
                heard.append(event)
            session.close()
            session.close()
            assert await anext(session, None) is None
            assert service.admission.open == 0
            assert not session.busy
        said = words_of(audio(heard), spoken_words(script))
        assert spoken_words(script)[: len(said)] == said

    asyncio.run(run())


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(order=st.lists(st.integers(0, 2), min_size=3, max_size=30))
def test_sessions_do_not_mix(order: list[int]) -> None:
    async def run() -> None:
        script = FakeScript(render=render)
        async with speech(script) as service:
            sessions = [service.session(request(), SENTENCES) for _ in range(3)]
            readers = [asyncio.create_task(everything(session)) for session in sessions]
            words = [text.split(" ") for text in TEXTS[:3]]
            for turn in [*order, *([0, 1, 2] * 30)]:
                if words[turn]:
                    sessions[turn].feed(words[turn].pop(0) + " ")
                    await asyncio.sleep(0)
            for session in sessions:
                session.end()
            for text, reader in zip(TEXTS, readers, strict=False):
                events = await reader
                whole = "".join(event.source for event in events if isinstance(event, PassageStarted))
                assert whole.split() == text.split()
                said = words_of(audio(events), spoken_words(script))
                assert [bare(word) for word in said] == [bare(word) for word in text.split()]

    asyncio.run(run())
