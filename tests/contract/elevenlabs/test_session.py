"""The sockets without a server: silences, any interleaving of turns, and frames that no client would send."""

from __future__ import annotations

import asyncio
import itertools
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from compat.elevenlabs import multi_stream_input, stream_input
from echo.engines.fake import FakeEngine
from echo.runtime import Runtime
from echo.types import Audio, Utterance
from tests.contract.elevenlabs.calls import aligned, audio_of
from tests.contract.far_end import Client, pass_time, until
from tests.contract.serving import PATIENCE_S, Gate

#: Samples of a word at 44,100 Hz: 50 ms.
WORD = 2205


def level_of(word: str) -> int:
    """Return the 16-bit level that stands for a word."""
    return 3_000 + zlib.crc32(word.lower().strip(".,?").encode()) % 25_000


def render(utterance: Utterance, block: int, count: int) -> Audio:
    """Say every word of the text as a constant level; the texts here fit into the plan's first block."""
    words = [word for word in utterance.text.split() if word != "[S1]"] if block == 0 else []
    levels = (np.full(WORD, level_of(word) / 32_767, np.float32) for word in words)
    return np.concatenate([np.zeros(0, np.float32), *levels])


def words_of(pcm: bytes, known: list[str]) -> list[str]:
    """Return the words that the samples say."""
    samples = np.frombuffer(pcm, "<i2").astype(int)
    names = {level_of(word) + nearby: word for word in known for nearby in (-1, 0, 1)}
    edges = [0, *(np.flatnonzero(np.diff(samples)) + 1), len(samples)]
    said: list[str] = []
    for start, end in itertools.pairwise(edges):
        if end - start > WORD // 2 and samples[start] != 0:  # what is shorter is faded
            said += [names.get(samples[start], "?")] * round((end - start) / WORD)
    return said


class Talker(Client):
    """A client of one of the sockets."""

    async def multi(self, runtime: Runtime, query: bytes = b"output_format=pcm_44100") -> None:
        async def application(socket: WebSocket) -> None:
            await multi_stream_input(socket, "anna", runtime)

        await self.serve(application, query)

    async def single(self, runtime: Runtime, query: bytes = b"output_format=pcm_44100") -> None:
        async def application(socket: WebSocket) -> None:
            await stream_input(socket, "anna", runtime)

        await self.serve(application, query)


async def test_nothing_is_left_behind_when_the_client_leaves(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = gate = Gate()
    client = Talker()
    before = asyncio.all_tasks()
    client.say(text="Hello there. ", context_id="c", flush=True)
    client.say(text="Half a sen", context_id="d")
    serving = asyncio.create_task(client.multi(runtime))
    await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
    client.leave()
    await serving
    assert runtime.service.admission.open == 0
    assert asyncio.all_tasks() == before
    gate.open()


# -- silences


PATIENT = b"output_format=pcm_44100&inactivity_timeout=60"
IMPATIENT = b"output_format=pcm_44100&inactivity_timeout=0.1"


async def test_a_silent_client_is_told_of_the_turn_that_it_left_open(runtime: Runtime) -> None:
    client = Talker()
    client.say(text="Half a sen", context_id="c")
    await client.multi(runtime, IMPATIENT)
    assert client.close_code == 1008
    assert [answer.get("error") for answer in client.messages] == ["input_timeout_exceeded", None]
    assert [answer.get("isFinal") for answer in client.messages] == [None, True]


async def test_a_silent_client_of_a_single_turn_is_told_and_let_go(runtime: Runtime) -> None:
    client = Talker()
    client.say(text="Half a sen")
    await client.single(runtime, IMPATIENT)
    assert (client.messages[-1]["error"], client.close_code) == ("input_timeout_exceeded", 1008)
    assert "0.1 seconds" in client.messages[-1]["message"]


async def test_keep_alives_keep_the_socket_open(runtime: Runtime) -> None:
    client = Talker()
    serving = asyncio.create_task(client.multi(runtime, PATIENT))
    for _ in range(8):
        client.say(text="")
        await until(lambda: client.unread == 0)
        await pass_time(40)
    assert client.close_code is None
    client.say(text=" ", context_id="c")
    client.say(context_id="c", close_context=True)
    await until(lambda: any(answer.get("isFinal") for answer in client.messages))
    await pass_time(61)
    await serving
    assert client.close_code == 1000


async def test_a_client_that_listens_is_not_silent(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = gate = Gate()
    client = Talker()
    client.say(text="Hello. ", context_id="c", flush=True)
    serving = asyncio.create_task(client.multi(runtime, PATIENT))
    assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
    for _ in range(3):
        await pass_time(61)
    assert client.close_code is None
    gate.open()
    await until(lambda: any(answer.get("audio") for answer in client.messages))
    client.leave()
    await serving


async def test_a_client_that_has_sent_everything_is_not_silent(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = gate = Gate()
    client = Talker()
    client.say(text="Hello.")
    client.say(text="")
    serving = asyncio.create_task(client.single(runtime, PATIENT))
    assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
    for _ in range(3):
        await pass_time(61)
    assert client.close_code is None
    gate.open()
    await serving
    assert client.close_code == 1000
    assert client.messages[-1]["isFinal"]


# -- any order


@dataclass(slots=True)
class Turn:
    """What a turn was told, and how it has to end."""

    id: str
    text: str = ""
    closed: bool = False
    unflushed: bool = False
    interrupted: bool = False

    @property
    def words(self) -> list[str]:
        return self.text.split()


@dataclass(slots=True)
class Conversation:
    """The messages of a client, and the turns that they make."""

    frames: list[dict[str, object]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    open: dict[str, Turn] = field(default_factory=dict)
    number: int = 0

    def do(self, action: str, name: str) -> None:
        turn = self.open.get(name)
        match action:
            case "say" | "say and flush":
                if turn is None or turn.closed:
                    if turn is not None or len(self.open) >= 3:
                        return  # its old turn is still speaking
                    turn = self.open[name] = Turn(name)
                    self.turns.append(turn)
                self.number += 1
                piece = f"{'abcdefghij'[self.number % 10]}{'aeiou'[self.number % 5]}{self.number}x, "
                turn.text += piece
                turn.unflushed = action == "say"
                self.frames.append({"text": piece, "context_id": name, **({} if turn.unflushed else {"flush": True})})
            case "flush":
                self.frames.append({"context_id": name, "flush": True})
                if turn is not None and not turn.closed:
                    turn.unflushed = False
            case "keep alive":
                self.frames.append({"text": "", "context_id": name})
            case "close":
                self.frames.append({"context_id": name, "close_context": True})
                if turn is not None:
                    turn.interrupted = turn.interrupted or turn.unflushed or turn.closed
                    turn.closed = True


ACTIONS = ["say", "say", "say", "say and flush", "flush", "keep alive", "close"]


async def test_any_interleaving_of_turns_says_the_words_of_each(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = render
    loop = asyncio.get_running_loop()

    @settings(max_examples=60, derandomize=True, deadline=None)
    @given(
        actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from("abc")), max_size=30),
        query=st.sampled_from(["", "&auto_mode=true", "&sync_alignment=true", "&auto_mode=true&sync_alignment=true"]),
        pauses=st.sets(st.integers(0, 30)),
    )
    def play(actions: list[tuple[str, str]], query: str, pauses: set[int]) -> None:
        conversation, client = Conversation(), Talker()
        for action, name in actions:
            conversation.do(action, name)

        async def talk() -> None:
            serving = asyncio.create_task(client.multi(runtime, b"output_format=pcm_44100" + query.encode()))
            for number, frame in enumerate([*conversation.frames, {"close_socket": True}]):
                client.say(**frame)
                if number in pauses:
                    await asyncio.sleep(0.001)
            await serving

        asyncio.run_coroutine_threadsafe(talk(), loop).result(30)
        assert client.close_code == 1000
        for turn in conversation.turns:
            heard = [answer for answer in client.messages if answer.get("contextId") == turn.id]
            assert [answer["isFinal"] for answer in heard] == [False] * (len(heard) - 1) + [True]
            said = words_of(audio_of(heard), [word.strip(",") for word in turn.words])
            words = [word.strip(",") for word in turn.words]
            written = aligned(heard, restart="sync" not in query).text
            assert said == words[: len(said)]
            assert turn.text.startswith(written) or written == turn.text + " "
            if not (turn.interrupted or turn.unflushed):
                assert said == words
                assert written == turn.text

    await asyncio.to_thread(play)
    assert runtime.service.admission.open == 0


async def test_any_split_of_a_text_is_spoken_as_it_was_written(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = render
    loop = asyncio.get_running_loop()
    text = "Well, it rains. Shall we stay at home, or go out? I would like that, if you have time. "

    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(
        cuts=st.lists(st.integers(0, len(text)), max_size=12),
        trigger=st.booleans(),
        query=st.sampled_from(["", "&auto_mode=true"]),
    )
    def play(cuts: list[int], trigger: bool, query: str) -> None:
        client = Talker()
        client.say(text=" ", generation_config={"chunk_length_schedule": [50]})
        for start, end in itertools.pairwise([0, *sorted(cuts), len(text)]):
            if text[start:end]:
                client.say(text=text[start:end], try_trigger_generation=trigger)
        client.say(text="")
        serving = client.single(runtime, b"output_format=pcm_44100" + query.encode())
        asyncio.run_coroutine_threadsafe(serving, loop).result(30)
        assert client.close_code == 1000
        assert aligned(client.messages).text == text
        words = [word.strip(".,?").lower() for word in text.split()]
        assert words_of(audio_of(client.messages), words) == words

    await asyncio.to_thread(play)


_KEYS = [
    "text",
    "context_id",
    "contextId",
    "flush",
    "close_context",
    "voice_settings",
    "generation_config",
    "xi-api-key",
]
_VALUES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2000)
    | st.text(max_size=5)
    | st.sampled_from(["anna", "c", "d", " ", "Hi. "])
    | st.just({})
    | st.dictionaries(
        st.sampled_from(["speed", "stability", "chunk_length_schedule"]), st.integers(-5, 200) | st.just([50])
    )
)
_FRAMES = st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=4)


async def test_no_sequence_of_frames_breaks_the_socket(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.audio_s_per_char = 0.001
    loop = asyncio.get_running_loop()

    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(frames=st.lists(_FRAMES, max_size=8))
    def play(frames: list[dict[str, object]]) -> None:
        client = Talker()
        for frame in frames:
            client.send(json.dumps(frame))
        client.send("{")
        client.send(json.dumps({"close_socket": True}))
        asyncio.run_coroutine_threadsafe(client.multi(runtime), loop).result(20)
        assert client.close_code == 1000
        assert any("JSON" in answer.get("message", "") for answer in client.messages)
        assert not any(answer.get("code") == 1011 for answer in client.messages)

    await asyncio.to_thread(play)
    assert runtime.service.admission.open == 0
