"""Calls without a server: any order of say, interrupt, mark and hang-up keeps the audio of each turn to itself."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from compat.twilio.calls import Calls
from compat.twilio.line import Line
from compat.twilio.playback import Playback
from echo.engines.fake import FakeEngine
from echo.errors import NotFound
from echo.runtime import Runtime
from tests.contract.far_end import Client, running, until
from tests.contract.serving import PATIENCE_S, Gate

SID = "MZ1"
TEXT = "The rain has stopped. We can go now, I think. Or do you want to stay"


class Far(Client):
    """Twilio's end."""

    def start(self, **parameters: str) -> None:
        self.say(event="start", start={"streamSid": SID, "customParameters": parameters})

    async def call(self, runtime: Runtime, calls: Calls, **options: float) -> None:
        async def application(socket: WebSocket) -> None:
            await socket.accept()
            await Line(socket, runtime, calls, **options).serve()

        await self.serve(application)


async def opened(calls: Calls) -> None:
    def is_open() -> bool:
        try:
            return calls.find(SID) is not None
        except NotFound:
            return False

    await until(is_open)


def sequence(far: Far) -> list[str]:
    """What was sent, turns by the marks behind them: the last mark of each run of audio, and the clears."""
    return [m["mark"]["name"].split(".")[0] if m["event"] == "mark" else m["event"] for m in far.messages]


def test_any_order_of_acts(voices_dir: Path) -> None:
    async def check(acts: list[tuple[str, int]]) -> None:
        far, calls = Far(), Calls()
        before = asyncio.all_tasks()
        serving = asyncio.create_task(far.call(runtime, calls))
        far.start(voice_id="anna")
        await opened(calls)
        call = calls.find(SID)
        cleared, said, last = 0, 0, {}
        for act, number in acts:
            match act:
                case "say":
                    said = call.say(TEXT[: 5 + number], end=number % 2 == 0)
                    last[said] = len(far.messages)
                case "clear":
                    await call.clear()
                    cleared = said
                    assert far.messages[-1]["event"] == "clear"
                    assert call.playback.played_s == call.playback.sent_s
                case "mark":
                    marks = [m for m in far.messages if m["event"] == "mark"]
                    for mark in marks[-number:]:
                        far.say(**mark)
            for _ in range(number % 7):
                await asyncio.sleep(0.001)
            names = sequence(far)
            tail = names[len(names) - names[::-1].index("clear") :] if "clear" in names else names
            # Nothing of a turn that was cleared comes after the clear, and turns come in their order.
            turns = [int(name) for name in tail if name.isdecimal()]
            assert turns == sorted(turns)
            assert all(turn > cleared for turn in turns)
        call.end_turn()
        async with asyncio.timeout(PATIENCE_S):
            while call.playback._marks or call._turns:
                for name in list(call.playback._marks):
                    call.playback.returned(name)
                await asyncio.sleep(0.001)
        audio = b"".join(base64.b64decode(m["media"]["payload"]) for m in far.messages if m["event"] == "media")
        assert len(audio) % 160 == 0
        assert round(call.playback.sent_s * 8000) == len(audio)
        far.leave()
        async with asyncio.timeout(PATIENCE_S):
            await serving
        await until(lambda: runtime.service.admission.open == 0)
        await until(lambda: asyncio.all_tasks() - {serving} <= before)

    with asyncio.Runner() as runner:
        context = running(voices_dir, engine := FakeEngine())
        runtime = runner.run(context.__aenter__())
        engine.script.block_s = 0.001

        @settings(max_examples=25, deadline=None)
        @given(
            acts=st.lists(
                st.tuples(st.sampled_from(["say", "say", "clear", "mark"]), st.integers(0, 60)), min_size=1, max_size=8
            )
        )
        def every(acts: list[tuple[str, int]]) -> None:
            runner.run(check(acts))

        try:
            every()
        finally:
            runner.run(context.__aexit__(None, None, None))


async def test_what_is_said_during_an_interruption_is_spoken_after_it(runtime: Runtime, engine: FakeEngine) -> None:
    far, calls = Far(), Calls()
    engine.script.render = gate = Gate()
    serving = asyncio.create_task(far.call(runtime, calls))
    far.start(voice_id="anna", text="The first turn is here.")
    await opened(calls)
    call = calls.find(SID)
    clearing = asyncio.create_task(call.clear())
    await asyncio.sleep(0)
    assert call.say("The second one.", end=True) == 2
    await clearing
    gate.open()
    await until(lambda: "2" in sequence(far))
    assert sequence(far).index("clear") < sequence(far).index("media")
    far.leave()
    await serving


async def test_a_call_that_never_starts_is_let_go(runtime: Runtime) -> None:
    far = Far()
    far.say(event="connected")
    await far.call(runtime, Calls(), start_s=0.02)
    assert far.close_code == 1008


async def test_a_line_that_has_gone_silent_is_lost(runtime: Runtime) -> None:
    far, calls = Far(), Calls()
    far.start(voice_id="anna", text=TEXT)
    await far.call(runtime, calls, idle_s=0.2)
    assert far.close_code == 1000
    assert runtime.service.admission.open == 0


async def test_a_line_that_plays_nothing_is_closed(runtime: Runtime) -> None:
    """It would hold a slot for as long as it likes."""
    far, calls = Far(), Calls()
    serving = asyncio.create_task(far.call(runtime, calls))
    far.start(voice_id="anna")
    await opened(calls)
    call = calls.find(SID)
    call.playback = Playback(lead_s=0.5, stall_s=0.05)
    call.say(TEXT * 3, end=True)
    async with asyncio.timeout(PATIENCE_S):
        await serving
    assert far.close_code == 1008
    assert runtime.service.admission.open == 0


async def test_a_server_that_is_loading_asks_to_be_called_again(runtime: Runtime) -> None:
    runtime.refuse()
    far = Far()
    far.start(voice_id="anna", text=TEXT)
    await far.call(runtime, Calls())
    assert far.close_code == 1013


async def test_a_busy_server_leaves_the_call_open(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.refuse = True
    far, calls = Far(), Calls()
    serving = asyncio.create_task(far.call(runtime, calls))
    far.start(voice_id="anna", text=TEXT)
    await opened(calls)
    call = calls.find(SID)
    await until(lambda: not call._turns)
    engine.script.refuse = False
    call.say("Now it works.", end=True)
    await until(lambda: bool(far.messages))
    far.leave()
    await serving
