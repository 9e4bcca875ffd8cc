"""Paths, headers and frames that no client library would send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect

from tests.contract.schemathesis.bodies import GOOD, OPENAPI, anything, encoded, raw
from tests.contract.serving import PATIENCE_S, Serve, Served

some = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

#: Printable ASCII and everything above it, which is what the parser of HTTP lets through.
visible = st.binary(max_size=30).map(lambda data: bytes(byte for byte in data if byte > 32 and byte != 127))
paths = st.lists(
    st.sampled_from([path.encode() for path in OPENAPI["paths"]])
    | st.sampled_from(
        [b"/", b"//", b"/..", b"/%2e%2e", b"/%00", b"/%ff", b"/{voice}", b"/anna", b":clone", b"?", b"?a=%"]
    )
    | visible,
    min_size=1,
    max_size=4,
).map(lambda parts: b"/" + b"".join(parts).lstrip(b"/"))
headers = st.dictionaries(
    st.sampled_from(
        [
            b"Authorization",
            b"X-Api-Key",
            b"Content-Type",
            b"Accept",
            b"Accept-Encoding",
            b"Origin",
            b"Access-Control-Request-Method",
            b"X-Request-Id",
            b"Range",
            b"Cookie",
            b"Forwarded",
        ]
    ),
    st.sampled_from([b"Basic =", b"Basic Og==", b"Bearer", b"*", b"null", b"multipart/form-data; boundary="]) | visible,
    max_size=4,
)


def status_of(server: Served, method: bytes, path: bytes, head: dict[bytes, bytes], body: bytes) -> int:
    """Send a request over a bare connection; returns the status it is answered with."""
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    lines += [b"Content-Length: %d" % len(body), *(name + b": " + value for name, value in head.items())]
    with server.connect() as connection:
        connection.sendall(b"\r\n".join([*lines, b"", b""]) + body)
        answer = b""
        while b"\r\n" not in answer and (piece := connection.recv(4096)):
            answer += piece
    return int(answer.split()[1])


@some
@given(method=st.sampled_from([b"GET", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD", b"TRACE"]), path=paths)
def test_paths(fuzzed: Served, method: bytes, path: bytes) -> None:
    assert status_of(fuzzed, method, path, {}, encoded(GOOD) if method == b"POST" else b"") in {
        200,
        400,
        403,
        404,
        405,
        422,
    }


@pytest.mark.parametrize(
    "path", [b"/v1/audio/speech", b"/tts/v1/voice", b"/tts_to_audio", b"/create_and_store_latents", b"/synthesize"]
)
@some
@given(head=headers)
def test_headers(fuzzed: Served, path: bytes, head: dict[bytes, bytes]) -> None:
    assert status_of(fuzzed, b"POST", path, head, encoded(GOOD)) in {200, 400, 403, 404}


def test_headers_where_a_key_is_needed(serve: Serve) -> None:
    server = serve(api_keys=("right",), max_failed_keys=0)

    @some
    @given(head=headers)
    def check(head: dict[bytes, bytes]) -> None:
        # The origin of a page is checked before the key.
        allowed = {401, 403} if b"Origin" in head else {401}
        assert status_of(server, b"POST", b"/v1/audio/speech", head, encoded(GOOD)) in allowed

    check()


@some
@given(frames=st.lists(raw | anything.map(encoded) | anything.map(json.dumps), max_size=5))
def test_frames_on_the_inworld_socket(fuzzed: Served, frames: list[bytes | str]) -> None:
    with connect(f"{fuzzed.ws_url}/tts/v1/voice:streamBidirectional", proxy=None) as socket:
        for frame in frames:
            socket.send(frame)
        socket.send(json.dumps({"flush_context": {}, "contextId": "the last one"}))
        answers: list[dict[str, Any]] = []
        while not answers or answers[-1].get("result", {}).get("contextId") != "the last one":
            answers.append(json.loads(socket.recv(timeout=PATIENCE_S)))
    statuses = [answer.get("error") or answer["result"]["status"] for answer in answers]
    assert all(status["code"] in (3, 5) for status in statuses), statuses


@some
@given(frames=st.lists(raw | anything.map(encoded) | anything.map(json.dumps), max_size=5))
def test_frames_on_the_omni_socket(fuzzed: Served, frames: list[bytes | str]) -> None:
    with connect(f"{fuzzed.ws_url}/v1/audio/speech/stream", proxy=None) as socket:
        socket.send(json.dumps({"type": "session.config", "voice": "anna"}))
        for frame in [*frames, json.dumps({"type": "the last one"})]:
            socket.send(frame)
        answers = [json.loads(socket.recv(timeout=PATIENCE_S)) for _ in range(len(frames) + 2)]
    kinds = [answer["type"] for answer in answers]
    assert sorted(kinds) == ["error"] * (len(frames) + 1) + ["session.configured"]
    assert all(answer.get("code") != "internal_error" for answer in answers)


@pytest.mark.parametrize("path", ["/ws/synthesize", "/ws/synthesize-stream"])
@some
@given(frames=st.lists(raw | anything.map(encoded) | anything.map(json.dumps), max_size=5))
def test_frames_on_the_chatterbox_sockets(fuzzed: Served, path: str, frames: list[bytes | str]) -> None:
    with connect(f"{fuzzed.ws_url}{path}", proxy=None) as socket:
        for frame in frames:
            socket.send(frame)
        socket.send(json.dumps({"type": "the last one"}))
        answers = [json.loads(socket.recv(timeout=PATIENCE_S)) for _ in range(len(frames) + 1)]
    assert all(answer["error"] for answer in answers)


@some
@given(frames=st.lists(raw | anything.map(encoded) | anything.map(json.dumps), max_size=5))
def test_frames_on_the_twilio_socket(fuzzed: Served, frames: list[bytes | str]) -> None:
    """None of it is a call, and none of it disturbs one."""
    with connect(f"{fuzzed.ws_url}/ws/twilio", proxy=None) as socket:
        for frame in frames:
            socket.send(frame)
        start = {"streamSid": "MZ1", "customParameters": {"voice_id": "anna", "text": "Hi.", "close": "true"}}
        socket.send(json.dumps({"event": "start", "start": start}))
        for frame in frames:
            socket.send(frame)
        while (message := json.loads(socket.recv(timeout=PATIENCE_S)))["event"] != "mark":
            pass
        socket.send(json.dumps(message))
