"""Pages of other origins, and other hosts that point at loopback."""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.attack.raw import Answer, ask, request
from tests.contract.inworld.calls import SOCKET_PATH
from tests.contract.serving import Serve, Served

FOREIGN = "Origin: https://evil.example"
BODY = b'{"input": "Hello.", "response_format": "pcm"}'


def speak(served: Served, *lines: str, **options: str) -> Answer:
    return ask(served.port, request("POST", "/v1/audio/speech", BODY, *lines, **options))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Origin: http://localhost"],
        ["Origin: http://localhost:80"],
        ["Origin: https://localhost"],
        ["Sec-Fetch-Site: same-origin", "Origin: http://localhost"],
        ["Content-Type: text/plain"],
        ["Referer: https://evil.example/"],
    ],
)
def test_own_pages_and_programs_are_served(server: Served, lines: list[str]) -> None:
    assert speak(server, *lines).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        [FOREIGN],
        ["Origin: null"],
        ["Origin: "],
        ["Origin: file://"],
        ["Origin: http://localhost:8001"],
        ["Origin: http://localhost.evil.example"],
        ["Origin: http://[::1"],
        [FOREIGN, "Content-Type: text/plain"],
        [FOREIGN, "Content-Type: application/x-www-form-urlencoded"],
        ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"],
    ],
)
def test_a_page_of_another_origin_is_refused(server: Served, lines: list[str]) -> None:
    refused = speak(server, *lines)
    assert refused.status == 403
    error = refused.json()["error"]
    assert error["code"] == "origin_not_allowed"
    assert "ECHO_CORS_ORIGINS" in error["message"]
    assert not server.script.spoken


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tts/v1/voice"),
        ("POST", "/tts/v1/voice:stream"),
        ("POST", "/voices/v1/voices:clone"),
        ("PATCH", "/voices/v1/voices/anna"),
        ("DELETE", "/voices/v1/voices/anna"),
        ("POST", "/create_and_store_latents"),
        ("POST", "/tts_to_audio/"),
        ("POST", "/tts_stream"),
        ("GET", "/tts_stream?text=hello&speaker_wav=anna"),
        ("GET", "/tts_stream/?text=hello&speaker_wav=anna"),
    ],
)
def test_whatever_changes_something_or_speaks_is_refused_to_it(serve: Serve, method: str, path: str) -> None:
    served = serve(inworld_clone_enabled=True)
    assert ask(served.port, request(method, path, b"{}", FOREIGN)).status == 403


@pytest.mark.parametrize("path", ["/", "/health", "/v1/voices", "/speakers_list"])
def test_looking_is_not_what_this_is_about(server: Served, path: str) -> None:
    answer = ask(server.port, request("GET", path, None, FOREIGN))
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers  # so that the page cannot read it


def test_a_player_on_another_site_is_refused_unless_its_page_is_allowed(serve: Serve) -> None:
    served = serve(cors_origins=("https://good.example",))
    path = "/tts_stream?text=hello&speaker_wav=anna"
    site = "Sec-Fetch-Site: cross-site"
    assert ask(served.port, request("GET", path)).status == 200
    assert ask(served.port, request("GET", path, None, site)).status == 403
    assert ask(served.port, request("GET", path, None, site, "Referer: https://evil.example/x")).status == 403
    assert ask(served.port, request("GET", path, None, site, "Referer: https://good.example/x")).status == 200


def test_the_setting_opens_the_door(serve: Serve) -> None:
    served = serve(cors_origins=("https://good.example", "null"))
    assert speak(served, "Origin: https://good.example").status == 200
    assert speak(served, "Origin: https://good.example:443").status == 200
    assert speak(served, "Origin: null").status == 200
    assert speak(served, "Origin: http://good.example").status == 403
    assert speak(served, FOREIGN).status == 403
    assert speak(serve(cors_origins=("*",)), FOREIGN, host="anything.example").status == 200


@pytest.mark.parametrize(
    ("origin", "status"), [(None, 101), ("https://evil.example", 403), ("https://good.example", 101), ("null", 403)]
)
def test_sockets_ask_for_the_origin_too(serve: Serve, origin: str | None, status: int) -> None:
    served = serve(cors_origins=("https://good.example",))
    if status == 101:
        with connect(served.ws_url + SOCKET_PATH, additional_headers={"Origin": origin} if origin else None):
            return
    with pytest.raises(InvalidStatus) as refused:
        connect(served.ws_url + SOCKET_PATH, additional_headers={"Origin": origin or ""})
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"{}")["code"] == 7


def test_a_socket_of_this_origin_is_open(server: Served) -> None:
    with connect(server.ws_url + SOCKET_PATH, origin=f"http://127.0.0.1:{server.port}"):
        pass


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.5", 200),
        ("app.localhost:8000", 200),
        ("echo:8000", 200),
        ("host.docker.internal:8000", 200),
        ("", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("evil.example.", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/voices"])
def test_on_loopback_a_foreign_host_is_refused(server: Served, path: str, host: str, status: int) -> None:
    answer = ask(server.port, request("GET", path, host=host))
    assert answer.status == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"


def test_hosts_of_allowed_origins_are_served(serve: Serve) -> None:
    served = serve(cors_origins=("https://good.example:8443",))
    assert ask(served.port, request(host="good.example")).status == 200
    assert ask(served.port, request(host="evil.example")).status == 403


def test_on_other_addresses_any_host_will_do(serve: Serve) -> None:
    served = serve(host="0.0.0.0")
    assert ask(served.port, request(host="tts.example")).status == 200
    assert speak(served, "Origin: http://tts.example", host="tts.example").status == 200
    assert speak(served, FOREIGN, host="tts.example").status == 403


def test_rebinding_does_not_make_a_page_this_servers_own(server: Served) -> None:
    assert speak(server, "Origin: http://evil.example", host="evil.example").status == 403
