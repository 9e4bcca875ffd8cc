"""The socket's session without a server: idle limits, and frames that no client would send."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from compat.inworld.socket import Session
from echo.engines.fake import FakeEngine
from echo.runtime import Runtime
from tests.contract.far_end import Client
from tests.contract.serving import PATIENCE_S, Gate

CREATE = json.dumps({"create": {"voiceId": "anna", "audioConfig": {"audioEncoding": "PCM"}}, "contextId": "c"})
SPEAK = json.dumps({"send_text": {"text": "Hello there.", "flush_context": {}}, "contextId": "c"})


class InworldClient(Client):
    async def session(self, runtime: Runtime, idle_s: float) -> None:
        async def application(socket: WebSocket) -> None:
            await socket.accept()
            await Session(socket, runtime, idle_s).serve()

        await self.serve(application)


async def test_a_silent_client_is_let_go(runtime: Runtime) -> None:
    client = InworldClient()
    await client.session(runtime, idle_s=0.01)
    assert client.close_code == 1000
    assert client.messages == []


async def test_a_client_with_an_idle_context_is_let_go_as_well(runtime: Runtime) -> None:
    client = InworldClient()
    before = asyncio.all_tasks()
    client.send(CREATE)
    await client.session(runtime, idle_s=0.05)
    assert client.close_code == 1000
    assert asyncio.all_tasks() == before


async def test_a_client_that_listens_is_not_idle(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = gate = Gate()
    client = InworldClient()
    client.send(CREATE)
    client.send(SPEAK)
    asyncio.get_running_loop().call_later(0.2, gate.open)
    await client.session(runtime, idle_s=0.02)
    assert any("flushCompleted" in answer["result"] for answer in client.messages)
    assert client.close_code == 1000


async def test_nothing_is_left_behind_when_the_client_leaves(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = gate = Gate()
    client = InworldClient()
    before = asyncio.all_tasks()
    client.send(CREATE)
    client.send(SPEAK)
    serving = asyncio.create_task(client.session(runtime, idle_s=60))
    await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
    client.leave()
    await serving
    assert runtime.service.admission.open == 0
    assert asyncio.all_tasks() == before
    gate.open()


_KEYS = ["create", "send_text", "flush_context", "update_config", "close_context", "cancel_context", "contextId"]
_FIELDS = ["voiceId", "text", "audioConfig", "audioEncoding", "flush_context", "autoMode", "bufferCharThreshold"]
_VALUES: st.SearchStrategy[object] = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2000)
    | st.text(max_size=5)
    | st.sampled_from(["anna", "c", "d", "PCM", "Hi."])
    | st.just({})
)
_FRAMES = st.dictionaries(
    st.sampled_from(_KEYS), _VALUES | st.dictionaries(st.sampled_from(_FIELDS), _VALUES), max_size=4
)


async def test_no_sequence_of_frames_breaks_the_session(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.audio_s_per_char = 0.001
    loop = asyncio.get_running_loop()

    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(frames=st.lists(_FRAMES, max_size=8))
    def play(frames: list[dict[str, object]]) -> None:
        client = InworldClient()
        for frame in [CREATE, *map(json.dumps, frames)]:
            client.send(frame)
        client.send("{")  # the last answer is the one to this
        client.leave()
        asyncio.run_coroutine_threadsafe(client.session(runtime, idle_s=60), loop).result(20)
        assert client.close_code is None
        assert any("error" in answer and "JSON" in answer["error"]["message"] for answer in client.messages)
        assert not any("internal" in str(answer).lower() for answer in client.messages)
        assert not any(_code(answer) == 13 for answer in client.messages)

    await asyncio.to_thread(play)
    assert runtime.service.admission.open == 0


def _code(answer: dict[str, Any]) -> int:
    status = answer.get("error") or answer["result"]["status"]
    code: int = status["code"]
    return code
