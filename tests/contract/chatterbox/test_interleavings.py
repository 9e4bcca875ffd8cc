"""The sockets without a server: any split of a text, any order of messages, any moment of a cancel or hang-up."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message
from starlette.websockets import WebSocket

from compat.chatterbox.requests import RequestSocket
from compat.chatterbox.turns import TurnSocket
from echo.engines.fake import FakeEngine
from echo.errors import BadRequest
from echo.runtime import Runtime
from echo.session import SpeechSession
from echo.settings import Settings
from tests.contract.serving import PATIENCE_S, Gate

TEXT = "Well, the rain has stopped at last. Shall we go for a walk? I would like that, if you have the time. Good"
WORDS = TEXT.split()


class Client:
    """The far end of a socket: what it sends, and what came back."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.closed: int | None = None
        self._changed = asyncio.Event()
        self._frames: asyncio.Queue[Message] = asyncio.Queue()
        self._frames.put_nowait({"type": "websocket.connect"})

    def send(self, **message: object) -> None:
        self._frames.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    @property
    def waiting(self) -> int:
        """Frames that have not been read."""
        return self._frames.qsize()

    def leave(self) -> None:
        self._frames.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def serve(self, kind: type[TurnSocket] | type[RequestSocket], runtime: Runtime, idle_s: float = 60) -> None:
        socket = WebSocket({"type": "websocket", "path": "/", "headers": []}, self._frames.get, self._answer)
        await socket.accept()
        await kind(socket, runtime, idle_s).serve()

    async def until(self, kind: str, count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while sum(answer.get("type") == kind for answer in self.answers) < count:
                self._changed.clear()
                await self._changed.wait()

    async def _answer(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self.answers.append(json.loads(message["text"]))
        elif message["type"] == "websocket.close":
            self.closed = message["code"]
        self._changed.set()


@asynccontextmanager
async def running(voices_dir: Path) -> AsyncIterator[tuple[Runtime, FakeEngine]]:
    engine = FakeEngine()
    runtime = Runtime(Settings(voices_dir=(str(voices_dir),)), load_engine=lambda settings, gate: engine)
    async with runtime:
        await runtime.ready()
        yield runtime, engine


async def settled(runtime: Runtime) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while runtime.service.admission.open:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.002)


def said(engine: FakeEngine) -> list[str]:
    return [word for utterance in engine.script.spoken for word in utterance.text.removeprefix("[S1] ").split()]


def test_any_split_of_a_text_is_spoken_once_and_whole(voices_dir: Path) -> None:
    async def check(cuts: list[int]) -> None:
        engine.script.spoken.clear()
        client = Client()
        serving = asyncio.create_task(client.serve(TurnSocket, runtime))
        client.send(type="init", voice_id="anna")
        edges = [0, *sorted(cuts), len(TEXT)]
        for start, end in itertools.pairwise(edges):
            client.send(type="text", content=TEXT[start:end])
            await asyncio.sleep(0)
        client.send(type="end")
        await client.until("complete")
        client.leave()
        await serving
        assert said(engine) == WORDS
        audio = [answer for answer in client.answers if answer["type"] == "audio"]
        assert [answer["chunk_index"] for answer in audio] == list(range(len(audio)))
        assert all(len(base64.b64decode(answer["audio"])) == 160 for answer in audio)

    with asyncio.Runner() as runner:
        opened = running(voices_dir)
        runtime, engine = runner.run(opened.__aenter__())

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
        serving = asyncio.create_task(client.serve(TurnSocket, runtime))
        for number, moment in enumerate(moments, 1):
            client.send(type="init", voice_id="anna")
            client.send(type="text", content=TEXT)
            if moment % 2:
                client.send(type="end")
            for _ in range(moment):
                await asyncio.sleep(0.001)
            client.send(type="cancel")
            await client.until("cancelled", number)
        before = len(client.answers)
        assert client.answers[-1] == {"type": "cancelled"}
        if leave:
            client.send(type="init", voice_id="anna")
            client.send(type="text", content=TEXT)
            await asyncio.sleep(0.001)
        client.leave()
        async with asyncio.timeout(PATIENCE_S):
            await serving
        await settled(runtime)
        if not leave:
            assert len(client.answers) == before  # a cancelled turn says no more
        assert asyncio.all_tasks() - {serving} <= tasks
        for utterance in engine.script.spoken:  # always a part of the text, never half a word
            assert f" {utterance.text.removeprefix('[S1] ')} " in f" {TEXT} "

    with asyncio.Runner() as runner:
        opened = running(voices_dir)
        runtime, engine = runner.run(opened.__aenter__())
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
async def test_a_silent_client_is_let_go(voices_dir: Path, kind: type[TurnSocket] | type[RequestSocket]) -> None:
    async with running(voices_dir) as (runtime, _):
        client = Client()
        await client.serve(kind, runtime, idle_s=0.01)
        assert client.closed == 1000
        assert client.answers == []


async def test_what_waits_on_a_connection_is_small(voices_dir: Path) -> None:
    client, gate = Client(), Gate()
    async with running(voices_dir) as (runtime, engine):
        engine.script.render = gate
        serving = asyncio.create_task(client.serve(RequestSocket, runtime))
        client.send(text="Hello.", voice_id="anna")
        await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
        tracemalloc.start()
        try:
            for _ in range(20):
                client.send(text="long " * 100_000, voice_id="anna")
                await asyncio.sleep(0.01)
            assert client.waiting == 0  # the server has read all of them
            assert tracemalloc.get_traced_memory()[0] < 2_000_000  # they were 10 MB
        finally:
            tracemalloc.stop()
            gate.open()
        async with asyncio.timeout(PATIENCE_S):
            while sum("error" in answer for answer in client.answers) < 20:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        assert "text: 499999 characters; at most 4096 are allowed." in client.answers[-1]["error"]
        client.leave()
        await serving


async def test_a_client_that_is_spoken_to_is_not_idle(voices_dir: Path) -> None:
    async with running(voices_dir) as (runtime, engine):
        engine.script.block_s = 0.3
        client = Client()
        client.send(type="init", voice_id="anna")
        client.send(type="text", content="Hello there, you.")
        client.send(type="end")
        await client.serve(TurnSocket, runtime, idle_s=0.1)
        assert [answer["type"] for answer in client.answers][-1] == "complete"
        assert client.closed == 1000


async def test_a_turn_that_is_dropped_before_it_has_begun_is_closed(voices_dir: Path) -> None:
    async with running(voices_dir) as (runtime, _):
        service, opened = runtime.service, []

        def session(*arguments: Any, **options: Any) -> SpeechSession:
            opened.append(SpeechSession(service, *arguments, **options))
            return opened[-1]

        service.session = session  # type: ignore[method-assign]
        client = Client()
        client.send(type="init", voice_id="anna")
        client.send(type="cancel")
        client.send(type="init", voice_id="anna")
        client.send(type="init", voice_id="bob")
        client.leave()
        await client.serve(TurnSocket, runtime)
        assert len(opened) == 3
        for each in opened:
            with pytest.raises(BadRequest):
                each.feed("after the end")
