"""POST /admin/drain, and what a server that drains does with streams, sockets and whoever still comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.contract.limits.test_key_rules import FORMATS, opened, say, until
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until
from tests.contract.twilio.phone import Phone


def drain(server: Served, query: str = "", **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/admin/drain{query}", headers=headers, timeout=PATIENCE_S, verify=False)


def ready(server: Served) -> tuple[int, object]:
    answer = httpx.get(f"{server.url}/ready", timeout=PATIENCE_S, verify=False)
    return answer.status_code, answer.json()["status"]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_in_the_window_it_is_not_ready_and_serves(serve: Serve) -> None:
    server = serve(drain_s=3600.0)
    for _ in range(2):
        answer = drain(server, "?wait=false")
        assert (answer.status_code, answer.json()) == (202, {"status": "draining", "open_streams": 0})
    assert ready(server) == (503, "draining")
    for form in FORMATS.values():
        served = httpx.post(server.url + form.path, json=form.body, timeout=PATIENCE_S, verify=False)
        assert (served.status_code, served.headers["connection"]) == (200, "close")
    with opened(server, "/v1/speak?model=anna") as socket:
        say(socket, type="Speak", text="Still served.")
        say(socket, type="Flush")
        assert until(socket, lambda message: message["type"] == "Flushed")


def test_after_it_what_is_open_ends_and_nothing_new_is_taken(serve: Serve, thread: ThreadPoolExecutor) -> None:
    server = serve(drain_s=0.0, shutdown_grace_s=3600.0)
    server.script.render = gate = Gate(block=1)
    with ExitStack() as stack:
        idle = stack.enter_context(opened(server, "/tts/v1/voice:streamBidirectional"))
        call = stack.enter_context(opened(server, "/ws/twilio"))
        phone = Phone(call, "MZ3", "CA3")
        phone.start(voice_id="anna", text="The call goes on.")
        phone.receive()
        speaking = stack.enter_context(opened(server, "/v1/speak?model=anna"))
        say(speaking, type="Speak", text="A long sentence that is being spoken while the server drains. " * 4)
        say(speaking, type="Flush")
        assert gate.reached.wait(PATIENCE_S)
        draining = thread.submit(drain, server)
        wait_until(lambda: server.runtime.drain.refusing)
        for form in FORMATS.values():
            refused = httpx.post(server.url + form.path, json=form.body, timeout=PATIENCE_S, verify=False)
            assert refused.status_code == 503
            assert "shutting down" in form.message(refused.json())
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.headers["connection"] == "close"
        with pytest.raises(InvalidStatus) as handshake:
            connect(f"{server.ws_url}/tts/v1/voice:streamBidirectional", proxy=None, legacy=True)
        assert handshake.value.response.status_code == 503
        assert httpx.get(f"{server.url}/v1/voices", verify=False).status_code == 200
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert not draining.done()
        assert drain(server, "?wait=0").json()["open_streams"] > 0
        gate.open()
        assert until(speaking, lambda message: message["type"] == "Flushed")
        said = httpx.post(f"{server.url}/calls/MZ3/say", json={"text": "Goodbye."}, timeout=PATIENCE_S, verify=False)
        assert said.status_code == 200
        assert phone.receive()
    assert draining.result(PATIENCE_S).json() == {"status": "drained", "open_streams": 0}
    assert drain(server).status_code == 200  # again, when there is nothing left to do


def test_it_is_for_this_machine_or_an_admin_key(serve: Serve, tmp_path: Path) -> None:
    server = serve(drain_s=3600.0, trusted_proxies=("192.0.2.0/24",))
    refused = drain(server, "?wait=0", **{"X-Forwarded-For": "127.0.0.1"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert drain(serve(trusted_proxies=("127.0.0.1",)), "?wait=0").status_code == 403
    assert drain(server, "?wait=0", Host="127.0.0.1").status_code == 202
    path = tmp_path / "keys.toml"
    path.write_text("[boss]\nkey = 'boss-key'\nscopes = ['admin']\n[player]\nkey = 'player-key'\n", encoding="utf-8")
    server = serve(drain_s=3600.0, keys_file=path)
    far = {"X-Forwarded-For": "192.0.2.1"}
    assert drain(server, "?wait=0", **far).status_code == 401
    assert drain(server, "?wait=0", **far, Authorization="Bearer player-key").status_code == 403
    assert ready(server) == (200, "ready")
    assert drain(server, "?wait=0", **far, Authorization="Bearer boss-key").status_code == 202
    assert ready(server) == (503, "draining")
    assert drain(server, "?wait=0").status_code == 202  # from here without a key


def test_a_page_cannot_drain_the_server(serve: Serve) -> None:
    server = serve(drain_s=3600.0)
    assert drain(server, "?wait=0", Origin="https://evil.example").status_code == 403
    assert json.loads(httpx.get(f"{server.url}/ready", verify=False).text) == {"status": "ready"}
