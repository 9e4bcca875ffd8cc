"""The sockets without a server: any split of a text, any order of messages, any moment of a cancel or hang-up."""

from __future__ import annotations

import asyncio
import base64
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from compat.chatterbox.requests import MAX_WAITING, RequestSocket
from compat.chatterbox.turns import TurnSocket
from echo.engines.fake import FakeEngine
from echo.errors import BadRequest
from echo.runtime import Runtime
from echo.session import SpeechSession
from tests.contract import far_end
from tests.contract.far_end import running, until
from tests.contract.serving import PATIENCE_S, Gate

TEXT = "Well, the rain has stopped at last. Shall we go for a walk? I would like that, if you have the time. Good"
WORDS = TEXT.split()


class Client(far_end.Client):
    """A client of one of the sockets."""

    async def talk(self, kind: type[TurnSocket] | type[RequestSocket], runtime: Runtime, idle_s: float = 60) -> None:
        async def application(socket: WebSocket) -> None:
            await socket.accept()
            await kind(socket, runtime, idle_s).serve()

        await self.serve(application)

    async def until(self, kind: str, count: int = 1) -> None:
        await until(lambda: sum(message.get("type") == kind for message in self.messages) >= count)


def said(engine: FakeEngine) -> list[str]:
    return [word for utterance in engine.script.spoken for word in utterance.text.removeprefix("[S1] ").split()]


def test_any_split_of_a_text_is_spoken_once_and_whole(voices_dir: Path) -> None:
    async def check(cuts: list[int]) -> None:
        engine.script.spoken.clear()
        client = Client()
        serving = asyncio.create_task(client.talk(TurnSocket, runtime))
        client.say(type="init", voice_id="anna")
        edges = [0, *sorted(cuts), len(TEXT)]
        for start, end in itertools.pairwise(edges):
            client.say(type="text", content=TEXT[start:end])
            await asyncio.sleep(0)
        client.say(type="end")
        await client.until("complete")
        client.leave()
        await serving
        assert said(engine) == WORDS
        audio = [answer for answer in client.messages if answer["type"] == "audio"]
        assert [answer["chunk_index"] for answer in audio] == list(range(len(audio)))
        assert all(len(base64.b64decode(answer["audio"])) == 160 for answer in audio)

    with asyncio.Runner() as runner:
        opened = running(voices_dir, engine := FakeEngine())
        runtime = runner.run(opened.__aenter__())

        @settings(max_examples=25, deadline=None)
        @given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=10))
        def every(cuts: list[int]) -> None:
            runner.run(check(cuts))

        try:
            every()
        finally:
            runner.run(opened.__aexit__(None, None, None))


def test_any_moment_of_a_cancel_or_hang_up_leaves_nothing(voices_dir: Path) -> None:
    async def check(moments: list[int], leave: bool) -> None:
        engine.script.spoken.clear()
        client = Client()
        tasks = asyncio.all_tasks()
        serving = asyncio.create_task(client.talk(TurnSocket, runtime))
        for number, moment in enumerate(moments, 1):
            client.say(type="init", voice_id="anna")
            client.say(type="text", content=TEXT)
            if moment % 2:
                client.say(type="end")
            for _ in range(moment):
                await asyncio.sleep(0.001)
            client.say(type="cancel")
            await client.until("cancelled", number)
        before = len(client.messages)
        assert client.messages[-1] == {"type": "cancelled"}
        if leave:
            client.say(type="init", voice_id="anna")
            client.say(type="text", content=TEXT)
            await asyncio.sleep(0.001)
        client.leave()
        async with asyncio.timeout(PATIENCE_S):
            await serving
        await until(lambda: runtime.service.admission.open == 0)
        if not leave:
            assert len(client.messages) == before  # a cancelled turn says no more
        await until(lambda: asyncio.all_tasks() - {serving} <= tasks)
        for utterance in engine.script.spoken:  # always a part of the text, never half a word
            assert f" {utterance.text.removeprefix('[S1] ')} " in f" {TEXT} "

    with asyncio.Runner() as runner:
        opened = running(voices_dir, engine := FakeEngine())
        runtime = runner.run(opened.__aenter__())
        engine.script.block_s = 0.002

        @settings(max_examples=20, deadline=None)
        @given(moments=st.lists(st.integers(0, 12), min_size=1, max_size=3), leave=st.booleans())
        def every(moments: list[int], leave: bool) -> None:
            runner.run(check(moments, leave))

        try:
            every()
        finally:
            runner.run(opened.__aexit__(None, None, None))


@pytest.mark.parametrize("kind", [TurnSocket, RequestSocket])
async def test_a_silent_client_is_let_go(runtime: Runtime, kind: type[TurnSocket] | type[RequestSocket]) -> None:
    client = Client()
    await client.talk(kind, runtime, idle_s=0.01)
    assert client.close_code == 1000
    assert client.messages == []


async def test_what_waits_on_a_connection_is_small(runtime: Runtime, engine: FakeEngine) -> None:
    client, gate = Client(), Gate()
    engine.script.render = gate
    serving = asyncio.create_task(client.talk(RequestSocket, runtime))
    client.say(text="Hello.", voice_id="anna")
    await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
    tracemalloc.start()
    try:
        for _ in range(20):
            client.say(text="long " * 100_000, voice_id="anna")
        await until(lambda: client.unread == 0)
        assert tracemalloc.get_traced_memory()[0] < 2_000_000  # they were 10 MB
    finally:
        tracemalloc.stop()
        gate.open()
    await until(lambda: sum("error" in message for message in client.messages) == 20)
    assert "text: 499999 characters; at most 4096 are allowed." in client.messages[-1]["error"]
    client.leave()
    await serving


async def test_too_many_requests_at_a_time_are_refused_in_their_turn(runtime: Runtime, engine: FakeEngine) -> None:
    client, gate = Client(), Gate()
    engine.script.render = gate
    for number in range(MAX_WAITING + 2):
        client.say(text=f"Number {number}.", voice_id="anna")
    serving = asyncio.create_task(client.talk(RequestSocket, runtime))
    assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
    await until(lambda: client.unread == 0)
    gate.open()
    await until(lambda: sum("error" in message for message in client.messages) == 2)
    ends = [message for message in client.messages if message.get("is_final", True)]
    assert ["error" in message for message in ends] == [False] * MAX_WAITING + [True] * 2
    assert all(message["error"].startswith("Too many requests: ") for message in ends[-2:])
    client.leave()
    await serving


async def test_a_client_that_is_spoken_to_is_not_idle(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.block_s = 0.3
    client = Client()
    client.say(type="init", voice_id="anna")
    client.say(type="text", content="Hello there, you.")
    client.say(type="end")
    await client.talk(TurnSocket, runtime, idle_s=0.1)
    assert [answer["type"] for answer in client.messages][-1] == "complete"
    assert client.close_code == 1000


async def test_a_turn_that_is_dropped_before_it_has_begun_is_closed(runtime: Runtime) -> None:
    service, opened = runtime.service, []

    def session(*arguments: Any, **options: Any) -> SpeechSession:
        opened.append(SpeechSession(service, *arguments, **options))
        return opened[-1]

    service.session = session  # type: ignore[method-assign]
    client = Client()
    client.say(type="init", voice_id="anna")
    client.say(type="cancel")
    client.say(type="init", voice_id="anna")
    client.say(type="init", voice_id="bob")
    client.leave()
    await client.talk(TurnSocket, runtime)
    assert len(opened) == 3
    for each in opened:
        with pytest.raises(BadRequest):
            each.feed("after the end")
