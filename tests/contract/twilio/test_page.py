"""docs/integrations/twilio.md as it stands there: the server, the TwiML, the agent, the commands."""

from __future__ import annotations

import asyncio
import runpy
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compat.twilio.messages import Parameters
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Served, serving, wait_until
from tests.contract.twilio.phone import Phone, dial

PAGE = Page("twilio")
CALL = "CA0123456789abcdef"


@pytest.fixture(scope="module")
def started() -> Iterator[Served]:
    with serving(PAGE.server_settings("The server")) as served:
        yield served


@pytest.fixture
def phone(started: Served) -> Iterator[Phone]:
    """A call as the page's TwiML begins it."""
    started.script.spoken.clear()
    response = ElementTree.fromstring(PAGE.block("TwiML", "xml"))
    stream = response.find("./Connect/Stream")
    assert stream is not None
    assert stream.attrib["url"] == "wss://voice.example.com/ws/twilio"
    parameters = {each.attrib["name"]: each.attrib["value"] for each in stream.iter("Parameter")}
    # As the proxy passes it on: with the name that it was called by.
    with dial(started, call_sid=CALL, additional_headers={"Host": "voice.example.com"}) as dialled:
        dialled.start(**parameters)
        yield dialled
    started.wait_idle()


def spoken(server: Served) -> str:
    return " ".join(utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken)


def test_the_parameters_are_those_of_the_page() -> None:
    assert set(PAGE.settings("TwiML")) == set(Parameters.model_fields)


def test_a_call_begins(started: Served, phone: Phone) -> None:
    phone.until("mark")
    assert spoken(started) == "Hello, how can I help you?"
    assert started.script.spoken[0].plan.blocks[0].size == 16


def test_an_agent(started: Served, phone: Phone, tmp_path: Path) -> None:
    phone.until("mark")
    code = tmp_path / "agent.py"
    code.write_text(aimed(PAGE.block("An agent", "python"), started), encoding="utf-8")
    agent = runpy.run_path(str(code))["agent"]
    history: list[str] = []
    questions = ["What is the weather?", "And tomorrow?"]

    async def talk() -> None:
        caller: asyncio.Queue[str | None] = asyncio.Queue()
        caller.put_nowait(questions[0])
        talking = asyncio.create_task(agent(CALL, caller, history))
        while "for you." not in spoken(started):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        caller.put_nowait(questions[1])
        caller.put_nowait(None)
        await talking

    thread = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(talk(), 3 * PATIENCE_S)))
    thread.start()
    while spoken(started).count("for you.") < 2 or not any(m["event"] == "clear" for m in phone.received):
        phone.receive()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert [line for line in history if line.startswith("Caller")] == [f"Caller: {each}" for each in questions]
    assert "You asked, What is the weather?" in spoken(started)


def test_the_commands(started: Served, phone: Phone) -> None:
    phone.until("mark")
    script = "set -o errexit -o pipefail\n" + aimed(PAGE.block("Over HTTP", "bash"), started)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count('{"turn":2}') == 2
    assert '{"heard":' in done.stdout
    assert '{"turn":3}{"closing":true}' in done.stdout
    assert phone.closed() == 1000
    wait_until(lambda: spoken(started).endswith("Thank you for calling."))
