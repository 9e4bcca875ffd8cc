"""Keys of a file: what each may do and how much, told in the shape of every wire format."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from echo.settings import Settings
from tests.contract.serving import PATIENCE_S, Gate, Served, serving, wait_until
from tests.contract.twilio.phone import Phone

#: Twenty characters, of which a key named ``fed-...`` may send thirty in a minute.
TEXT = "Twenty characters..."
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """How a wire format asks for speech over HTTP, and where it tells what is wrong."""

    path: str
    body: Json
    headers: Callable[[str], dict[str, str]]
    message: Callable[[Json], str]
    code: Callable[[Json], object]
    #: The code of 401, 403 and 429.
    codes: tuple[object, object, object]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{key}'.encode()).decode()}"}


OPENAI_CODES = ("invalid_api_key", "insufficient_scope", "rate_limit_exceeded")
FORMATS = {
    "openai": Format(
        "/v1/audio/speech",
        {"input": TEXT, "voice": "anna"},
        bearer,
        lambda body: str(body["error"]["message"]),
        lambda body: body["error"]["code"],
        OPENAI_CODES,
    ),
    "omni": Format(
        "/v1/audio/speech/batch",
        {"items": [{"input": TEXT}], "voice": "anna"},
        bearer,
        lambda body: str(body["error"]["message"]),
        lambda body: body["error"]["code"],
        OPENAI_CODES,
    ),
    "inworld": Format(
        "/tts/v1/voice",
        {"text": TEXT, "voiceId": "anna"},
        basic,
        lambda body: str(body["message"]),
        lambda body: body["code"],
        (16, 7, 8),  # google.rpc.Code
    ),
    "elevenlabs": Format(
        "/v1/text-to-speech/anna",
        {"text": TEXT},
        lambda key: {"xi-api-key": key},
        lambda body: str(body["detail"]["message"]),
        lambda body: body["detail"]["status"],
        ("invalid_api_key", "missing_permissions", "rate_limit_exceeded"),
    ),
    "xtts": Format(
        "/tts_to_audio",
        {"text": TEXT, "speaker_wav": "anna", "language": "en"},
        bearer,
        lambda body: str(body["detail"]),
        lambda body: None,
        (None, None, None),
    ),
    "chatterbox": Format(
        "/synthesize",
        {"text": TEXT, "voice_id": "anna"},
        lambda key: {"api-key": key},
        lambda body: str(body["detail"]),
        lambda body: None,
        (None, None, None),
    ),
}
SOCKETS = ("inworld", "elevenlabs", "deepgram", "omni", "chatterbox-turns", "chatterbox-requests", "twilio")


def keys_file(*more: str) -> str:
    """Keys are spelled ``<name>-key``."""
    tables = {
        "speaker": "scopes = ['speak']",
        "maker": "scopes = ['clone']",
        "watcher": "scopes = ['metrics']",
        "boss": "scopes = ['admin']",
        "one-stream": "streams = 1",
        **{f"once-{name}": "requests_per_minute = 1" for name in FORMATS},
        **{f"fed-{name}": "characters_per_minute = 30" for name in SOCKETS},
        "turns": "requests_per_minute = 1",
        "clones": "scopes = ['clone']\nrequests_per_minute = 1",
        **dict.fromkeys(more, "requests_per_minute = 9"),
    }
    return "\n".join(f"[{name}]\nkey = '{name}-key'\n{rest}\n" for name, rest in tables.items())


@pytest.fixture(scope="module")
def keyed(voices_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with keys of all kinds, and an old one of ``ECHO_API_KEYS``."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(keys_file("leaver"), encoding="utf-8")
    settings = Settings(
        voices_dir=(str(voices_dir),), keys_file=path, api_keys=("old-key",), max_failed_keys=0, twilio_compat=True
    )
    with serving(settings) as served:
        yield served


def post(server: Served, path: str, body: object = None, key: str | None = None, **headers: str) -> httpx.Response:
    given = {**(bearer(key) if key is not None else {}), **headers}
    return httpx.post(server.url + path, json=body, headers=given, timeout=PATIENCE_S, verify=False)


def get(server: Served, path: str, key: str | None = None, **headers: str) -> int:
    headers |= bearer(key) if key is not None else {}
    return httpx.get(server.url + path, headers=headers, timeout=PATIENCE_S, verify=False).status_code


def ask(server: Served, form: Format, key: str | None) -> httpx.Response:
    return post(server, form.path, form.body, **(form.headers(key) if key is not None else {}))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_of_a_missing_key_a_missing_scope_and_a_used_up_limit(keyed: Served, name: str) -> None:
    form = FORMATS[name]
    for key in (None, "wrong-key"):
        refused = ask(keyed, form, key)
        assert (refused.status_code, form.code(refused.json())) == (401, form.codes[0])
    for key in ("maker-key", "watcher-key", "boss-key"):
        refused = ask(keyed, form, key)
        assert (refused.status_code, form.code(refused.json())) == (403, form.codes[1])
        assert "`speak`" in form.message(refused.json())
    key = f"once-{name}-key"
    answer = ask(keyed, form, key)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
    assert "x-ratelimit-limit-characters" not in answer.headers
    refused = ask(keyed, form, key)
    assert (refused.status_code, form.code(refused.json())) == (429, form.codes[2])
    assert "1 requests per minute" in form.message(refused.json())
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert ask(keyed, form, "speaker-key").status_code == 200
    assert "x-ratelimit-limit-requests" not in ask(keyed, form, "old-key").headers


def test_the_old_keys_may_do_what_they_could_and_no_more(keyed: Served) -> None:
    assert get(keyed, "/metrics", "old-key") == get(keyed, "/v1/voices", "old-key") == 200
    assert post(keyed, "/v1/audio/voices", {}, "old-key").status_code == 403  # cloning is off here
    assert "feature_disabled" in post(keyed, "/v1/audio/voices", {}, "old-key").text
    refused = post(keyed, "/admin/drain", None, "old-key", **{"X-Forwarded-For": "192.0.2.1"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")


def test_every_scope_opens_its_own_routes(keyed: Served) -> None:
    assert get(keyed, "/metrics") == 401
    assert get(keyed, "/metrics", "watcher-key") == 200
    assert [get(keyed, "/metrics", f"{name}-key") for name in ("speaker", "maker", "boss")] == [403] * 3
    assert [get(keyed, "/v1/voices", f"{name}-key") for name in ("speaker", "maker")] == [200] * 2
    assert [get(keyed, "/v1/voices", f"{name}-key") for name in ("watcher", "boss")] == [403] * 2
    assert [get(keyed, path) for path in ("/", "/health", "/ready")] == [200] * 3


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/audio/voices"),
        ("DELETE", "/v1/audio/voices/x"),
        ("POST", "/voices/v1/voices:clone"),
        ("PATCH", "/voices/v1/workspaces/w/voices/x"),
        ("DELETE", "/voices/v1/voices/x"),
        ("POST", "/create_and_store_latents"),
    ],
)
def test_voices_are_changed_with_the_scope_clone_alone(keyed: Served, method: str, path: str) -> None:
    def asked(key: str) -> httpx.Response:
        url = keyed.url + path
        return httpx.request(method, url, json={}, headers=bearer(key), timeout=PATIENCE_S, verify=False)

    assert "`clone`" in asked("speaker-key").text
    assert "`clone`" not in asked("maker-key").text
    assert asked("speaker-key").status_code == 403


def test_requests_that_speak_nothing_are_counted_too(keyed: Served) -> None:
    assert post(keyed, "/v1/audio/voices", {}, "clones-key").status_code == 403  # cloning is off
    assert post(keyed, "/v1/audio/voices", {}, "clones-key").status_code == 429


def test_a_key_has_so_many_streams_and_no_more(keyed: Served) -> None:
    keyed.script.render = gate = Gate()
    with keyed.send({"input": TEXT, "voice": "anna"}, headers="xi-api-key: one-stream-key\r\n"):
        assert gate.reached.wait(PATIENCE_S)
        refused = post(keyed, "/v1/audio/speech", {"input": TEXT}, "one-stream-key")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
        assert "1 streams open, 1 are allowed" in refused.json()["error"]["message"]
        assert refused.headers["x-ratelimit-limit-streams"] == "1"
        assert refused.headers["x-ratelimit-remaining-streams"] == "0"
        refused = post(keyed, "/v1/text-to-speech/anna", {"text": TEXT}, **{"xi-api-key": "one-stream-key"})
        assert refused.json()["detail"]["status"] == "too_many_concurrent_requests"
        with opened(keyed, "/v1/speak?model=anna", **{"Authorization": "Token one-stream-key"}) as socket:
            say(socket, type="Speak", text=TEXT)
            say(socket, type="Flush")
            assert until(socket, lambda message: message.get("type") == "Warning")["code"] == "too_many_streams"
        gate.open()
    keyed.wait_idle()
    keyed.script.render = None
    assert post(keyed, "/v1/audio/speech", {"input": TEXT}, "one-stream-key").status_code == 200


def test_the_log_names_the_key_and_never_tells_it(keyed: Served, caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        told = [record.getMessage() for record in caplog.records if record.name == "routes.middleware"]
        return [line for line in told if " told-" in line]  # not what other tests have asked for

    with caplog.at_level(logging.INFO):
        for number, key in enumerate(("speaker-key", "old-key", "wrong-key"), 1):
            get(keyed, "/v1/voices", key, **{"X-Request-Id": f"told-{number}"})
            wait_until(lambda count=number: len(lines()) == count)  # the answer comes before the line
    assert [line.rpartition(" ")[2] for line in lines()[:2]] == ["key=speaker", "key=ECHO_API_KEYS#1"]
    assert "key=" not in lines()[2]
    assert not [record for record in caplog.records if "-key" in record.getMessage()]


# -- sockets


@contextmanager
def opened(server: Served, path: str, **headers: str) -> Iterator[ClientConnection]:
    with connect(
        server.ws_url + path, additional_headers=headers, open_timeout=PATIENCE_S, close_timeout=0.2, proxy=None
    ) as connection:
        yield connection


def say(socket: ClientConnection, **message: object) -> None:
    socket.send(json.dumps(message))


def until(socket: ClientConnection, found: Callable[[Json], object]) -> Json:
    """Return the first message that is looked for; audio and other messages are dropped."""
    while True:
        frame = socket.recv(PATIENCE_S)
        if isinstance(frame, str):
            message: Json = json.loads(frame)
            if found(message):
                return message


def refused(server: Served, path: str, **headers: str) -> tuple[int, str]:
    """Return status and body of a refused handshake."""
    with pytest.raises(InvalidStatus) as error, opened(server, path, **headers):
        pass
    return error.value.response.status_code, (error.value.response.body or b"").decode()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/tts/v1/voice:streamBidirectional", '"code":'),
        ("/v1/speak?model=anna", '"err_code":'),
        ("/v1/audio/speech/stream", '"error":'),
        ("/ws/synthesize", '"error":'),
        ("/ws/synthesize-stream", '"error":'),
        ("/v1/text-to-speech/anna/stream-input", '"detail":'),
        ("/calls/x/say", '"error":'),
    ],
)
def test_a_handshake_is_refused_in_the_formats_shape(keyed: Served, path: str, told: str) -> None:
    status, body = refused(keyed, path, **bearer("watcher-key"))
    assert (status, told in body, "`speak`" in body) == (403, True, True)
    status, body = refused(keyed, path, **bearer("wrong-key"))
    assert (status, told in body) == (401, True)


def test_keys_that_come_late_need_the_scope_too(keyed: Served) -> None:
    status, body = refused(keyed, "/v1/text-to-speech/anna/stream-input?xi-api-key=watcher-key")
    assert (status, "missing_permissions" in body) == (403, True)
    with opened(keyed, "/v1/text-to-speech/anna/stream-input") as socket:
        say(socket, text=" ", xi_api_key="watcher-key")
        assert until(socket, lambda message: "error" in message)["error"] == "missing_permissions"
    for key, code in (("watcher-key", 1008), ("wrong-key", 1008)):
        with opened(keyed, "/ws/twilio") as connection:
            Phone(connection, "MZ1", "CA1").start(voice_id="anna", api_key=key)
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(PATIENCE_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code


def used_up(text: object) -> bool:
    return "30 characters per minute" in str(text)


def test_inworlds_socket_counts_characters_as_they_come(keyed: Served) -> None:
    with opened(keyed, "/tts/v1/voice:streamBidirectional", **basic("fed-inworld-key")) as socket:
        say(socket, create={"voiceId": "anna"}, contextId="c")
        for _ in range(2):
            say(socket, send_text={"text": TEXT}, contextId="c")
        status = until(socket, lambda message: message["result"]["status"]["code"])["result"]["status"]
        assert status["code"] == 8
        assert used_up(status["message"])


def test_elevenlabs_socket_counts_characters_as_they_come(keyed: Served) -> None:
    path = "/v1/text-to-speech/anna/multi-stream-input?xi-api-key=fed-elevenlabs-key"
    with opened(keyed, path) as socket:
        for _ in range(2):
            say(socket, text=TEXT + " ", context_id="c")
        message = until(socket, lambda message: "error" in message)
        assert message["error"] == "rate_limit_exceeded"
        assert used_up(message["message"])


def test_deepgrams_socket_counts_characters_as_they_come(keyed: Served) -> None:
    with opened(keyed, "/v1/speak?model=anna", Authorization="Token fed-deepgram-key") as socket:
        for _ in range(2):
            say(socket, type="Speak", text=TEXT)
        warning = until(socket, lambda message: message["type"] == "Warning")
        assert warning["code"] == "rate_limit_exceeded"
        assert used_up(warning["description"])


def test_omnis_socket_counts_characters_as_they_come(keyed: Served) -> None:
    with opened(keyed, "/v1/audio/speech/stream", **bearer("fed-omni-key")) as socket:
        say(socket, type="session.config", voice="anna", response_format="pcm")
        for _ in range(2):
            say(socket, type="input.text", text=TEXT)
        assert used_up(until(socket, lambda message: message["type"] == "error"))
        say(socket, type="input.done")
        assert until(socket, lambda message: message["type"] == "session.done")["total_sentences"] == 1


def test_chatterboxs_sockets_count_characters_as_they_come(keyed: Served) -> None:
    with opened(keyed, "/ws/synthesize-stream", **bearer("fed-chatterbox-turns-key")) as socket:
        say(socket, type="init", voice_id="anna")
        for _ in range(2):
            say(socket, type="text", content=TEXT)
        assert used_up(until(socket, lambda message: "error" in message))
    with opened(keyed, "/ws/synthesize", **bearer("fed-chatterbox-requests-key")) as socket:
        for _ in range(2):
            say(socket, text=TEXT, voice_id="anna")
        assert used_up(until(socket, lambda message: "error" in message))


def test_a_call_counts_characters_of_the_key_that_it_came_with(keyed: Served) -> None:
    with opened(keyed, "/ws/twilio") as connection:
        phone = Phone(connection, "MZ2", "CA2")
        phone.start(voice_id="anna", api_key="fed-twilio-key", text=TEXT)
        phone.receive()
        refusal = post(keyed, "/calls/MZ2/say", {"text": TEXT}, "speaker-key")
        assert refusal.status_code == 429
        assert used_up(refusal.text)


def test_every_turn_on_a_socket_is_a_request(keyed: Served) -> None:
    with opened(keyed, "/v1/audio/speech/stream", **bearer("turns-key")) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-ratelimit-remaining-requests"] == "1"
        say(socket, type="session.config", voice="anna", response_format="pcm")
        for text in ("In two", " pieces."):
            say(socket, type="input.text", text=text)
        say(socket, type="input.done")
        until(socket, lambda message: message["type"] == "session.done")
        say(socket, type="input.text", text="Once more.")
        error = until(socket, lambda message: message["type"] == "error")
        assert "1 requests per minute" in str(error)


def test_a_key_that_is_taken_out_of_the_file_speaks_no_more_on_open_sockets(keyed: Served) -> None:
    path = keyed.runtime.settings.keys_file
    assert path is not None
    with ExitStack() as open_ones:
        inworld, deepgram, omni, turns, multi = (
            open_ones.enter_context(opened(keyed, path, Authorization=f"{scheme} {given}"))
            for path, scheme, given in (
                ("/tts/v1/voice:streamBidirectional", "Bearer", "leaver-key"),
                ("/v1/speak?model=anna", "Token", "leaver-key"),
                ("/v1/audio/speech/stream", "Bearer", "leaver-key"),
                ("/ws/synthesize-stream", "Bearer", "leaver-key"),
                ("/v1/text-to-speech/anna/multi-stream-input", "Bearer", "leaver-key"),
            )
        )
        say(omni, type="session.config", voice="anna", response_format="pcm")
        say(omni, type="input.text", text=TEXT)
        say(omni, type="input.done")
        until(omni, lambda message: message["type"] == "session.done")
        new = path.with_suffix(".new")
        new.write_text(keys_file(), encoding="utf-8")
        new.replace(path)
        # No request has to come for the file to be looked at.
        wait_until(lambda: not keyed.runtime.quotas.standing("key leaver"))
        assert get(keyed, "/v1/voices", "leaver-key") == 401

        def told(message: Json) -> bool:
            return "no longer valid" in str(message)

        say(omni, type="input.text", text=TEXT)
        until(omni, told)
        say(inworld, create={"voiceId": "anna"}, contextId="c")
        say(inworld, send_text={"text": TEXT}, contextId="c")
        until(inworld, told)
        say(deepgram, type="Speak", text=TEXT)
        until(deepgram, told)
        say(turns, type="init", voice_id="anna")
        say(turns, type="text", content=TEXT)
        until(turns, told)
        say(multi, text=TEXT + " ", context_id="c")
        until(multi, told)
