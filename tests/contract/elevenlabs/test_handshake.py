"""The handshake of the sockets: what is refused with a status, and where the key may be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from compat.elevenlabs import opening
from echo.settings import Settings
from tests.contract.elevenlabs.calls import Json, Socket, audio_of, multi, path, post
from tests.contract.serving import PATIENCE_S, Serve, Served, serving

SOCKETS = ["/multi-stream-input", "/stream-input"]
both = pytest.mark.parametrize("rest", SOCKETS)
KEY = "right"


def refused(server: Served, rest: str, voice: str = "anna", **query: object) -> tuple[int, Json]:
    """Return status and detail of a handshake that must fail."""
    with pytest.raises(InvalidStatus) as refusal, connect(server.ws_url + path(rest, voice, **query)):
        pass
    response = refusal.value.response
    detail: Json = json.loads(response.body or b"")["detail"]
    return response.status_code, detail


@both
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"output_format": "mp3"}, "output_format"),
        ({"output_format": ""}, "output_format"),
        ({"inactivity_timeout": "soon"}, "inactivity_timeout"),
        ({"inactivity_timeout": 0}, "inactivity_timeout"),
        ({"auto_mode": "perhaps"}, "auto_mode"),
        ({"sync_alignment": "2"}, "sync_alignment"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_address_is_refused(server: Served, rest: str, query: dict[str, Any], named: str) -> None:
    status, detail = refused(server, rest, **query)
    assert status == 400
    assert detail["message"].startswith(named)


@both
def test_an_unknown_voice_is_refused(server: Served, rest: str) -> None:
    status, detail = refused(server, rest, "nobody")
    assert (status, detail["status"]) == (404, "voice_not_found")
    assert "nobody" in detail["message"]


def test_whatever_else_clients_send_is_ignored(server: Served) -> None:
    query = {
        "model_id": "eleven_turbo_v2_5",
        "language_code": "en",
        "enable_ssml_parsing": "false",
        "enable_logging": "true",
        "apply_text_normalization": "auto",
        "optimize_streaming_latency": 3,
        "inactivity_timeout": 300,
        "something_new": "x",
    }
    with multi(server, **query) as socket:
        assert socket.is_alive()


def test_a_voice_with_a_blank_in_its_name(server: Served) -> None:
    with multi(server, "Old%20Man") as socket:
        assert socket.is_alive()


@both
def test_a_server_that_is_still_loading_says_so(serve: Serve, rest: str) -> None:
    may_load = threading.Event()

    def load(settings: object, gate: object) -> Any:
        may_load.wait(PATIENCE_S)
        raise RuntimeError

    server = serve(load_engine=load)
    try:
        status, detail = refused(server, rest)
        assert (status, detail["status"]) == (503, "model_not_ready")
    finally:
        may_load.set()


# -- keys


@pytest.fixture(scope="module")
def locked(voices_dir: Path) -> Iterator[Served]:
    """A server that asks for a key."""
    with serving(Settings(voices_dir=(str(voices_dir),), api_keys=(KEY,), max_failed_keys=0)) as served:
        yield served


def speaks(socket: Socket) -> bool:
    socket.send(text="Hello. ", flush=True)
    socket.send(close_context=True)
    socket.send(text="")
    return len(audio_of(socket.until_final())) > 0


@both
@pytest.mark.parametrize("headers", [{"xi-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"api-key": KEY}])
def test_a_key_in_the_headers(locked: Served, rest: str, headers: dict[str, str]) -> None:
    with connect(locked.ws_url + path(rest), additional_headers=headers) as connection:
        assert speaks(Socket(connection))


@both
@pytest.mark.parametrize("name", ["xi-api-key", "xi_api_key", "authorization", "single_use_token"])
def test_a_key_in_the_address(locked: Served, rest: str, name: str) -> None:
    with connect(locked.ws_url + path(rest, **{name: KEY})) as connection:
        assert speaks(Socket(connection))


@both
@pytest.mark.parametrize(
    "first", [{"xi-api-key": KEY}, {"xi_api_key": KEY}, {"authorization": KEY}, {"authorization": f"Bearer {KEY}"}]
)
def test_a_key_in_the_first_message(locked: Served, rest: str, first: dict[str, str]) -> None:
    with connect(locked.ws_url + path(rest)) as connection:
        socket = Socket(connection)
        socket.send({"text": " ", **first})
        assert speaks(socket)


@both
def test_a_wrong_key_is_refused_before_the_upgrade(locked: Served, rest: str) -> None:
    assert refused(locked, rest, **{"xi-api-key": "wrong"})[0] == 401
    with pytest.raises(InvalidStatus), connect(locked.ws_url + path(rest), additional_headers={"xi-api-key": "wrong"}):
        pass


@both
@pytest.mark.parametrize(
    "first", [{"text": "Hello."}, {"text": " ", "xi-api-key": "wrong"}, {"text": " ", "xi-api-key": 5}]
)
def test_a_first_message_without_a_right_key_ends_the_connection(
    locked: Served, rest: str, first: dict[str, object]
) -> None:
    locked.script.spoken.clear()
    with connect(locked.ws_url + path(rest)) as connection:
        socket = Socket(connection)
        socket.send(first)
        (answer,), code = socket.rest()
    assert not locked.script.spoken
    assert (answer["error"] in ("invalid_api_key", "invalid_value"), code) == (True, 1008)


@both
def test_a_client_without_a_key_learns_no_voice(locked: Served, rest: str) -> None:
    with connect(locked.ws_url + path(rest, "nobody")) as connection:
        socket = Socket(connection)
        socket.send({"text": " ", "xi-api-key": KEY})
        (answer,), code = socket.rest()
    assert (answer["error"], code) == ("voice_not_found", 1008)


@both
def test_a_client_without_a_key_may_not_wait(locked: Served, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "KEY_S", 0.1)
    with connect(locked.ws_url + path(rest)) as connection:
        assert Socket(connection).rest() == ([], 1000)


def test_keys_that_are_tried_in_messages_are_counted(serve: Serve) -> None:
    locked = serve(api_keys=(KEY,), max_failed_keys=2)
    answers = []
    for _ in range(3):
        with connect(locked.ws_url + path("/stream-input")) as connection:
            socket = Socket(connection)
            socket.send({"text": " ", "xi-api-key": "wrong"})
            answers.append(socket.receive()["error"])
    assert answers == ["invalid_api_key", "invalid_api_key", "too_many_failures"]


def test_the_routes_can_be_switched_off(serve: Serve) -> None:
    server = serve(elevenlabs_compat=False)
    assert post(server, path(""), {"text": "Hello."}).status_code == 404
    with pytest.raises(InvalidStatus), connect(server.ws_url + path("/stream-input")):
        pass
