"""X-Request-Id: in every answer there is, whoever gives it; the client's own where it is well-formed."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack

import pytest
from starlette.types import Receive, Scope, Send

from echo.telemetry import set_up_log
from routes.middleware import RequestLog
from tests.attack.raw import Raw, ask, request
from tests.contract.serving import Gate, Serve, Served, wait_until

MINE = "X-Request-Id: mine-1"
HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
SOCKET = "/v1/audio/speech/stream"

#: What is asked, and the status of the answer. ``{}`` is where the header with the id goes.
CASES = {
    "success": (request("GET", "/health", None, "{}"), 200),
    "head": (request("HEAD", "/health", None, "{}"), 200),
    "preflight": (
        request("OPTIONS", "/v1/models", None, "Origin: http://localhost", "Access-Control-Request-Method: GET", "{}"),
        400,
    ),
    "refused by a route": (request("POST", "/v1/audio/speech", b'{"input": ""}', "{}"), 400),
    "not found": (request("GET", "/nothing", None, "{}"), 404),
    "method": (request("DELETE", "/health", None, "{}"), 405),
    "too large": (request("POST", "/v1/audio/speech", None, "Content-Length: 99999999999", "{}"), 413),
    "origin": (request("POST", "/v1/audio/speech", b"{}", "Origin: http://evil.example", "{}"), 403),
    "host": (request("GET", "/health", None, "{}", host="evil.example"), 403),
    "no HTTP": (b"GET /health HTTP/1.1\r\n{}\r\nX-Other: a\r\nno header\r\n\r\n", 400),
    "no chunk": (request("POST", "/v1/audio/speech", None, "Transfer-Encoding: chunked", "{}") + b"zz\r\n", 400),
    "endless head": (b"GET /health HTTP/1.1\r\n{}\r\nX-Long: " + b"a" * 80_000, 431),
    "long URL": (b"GET /" + b"a" * 80_000, 414),
    "socket": (request("GET", SOCKET, None, *HANDSHAKE, KEY, "{}"), 101),
    "no such socket": (request("GET", "/nothing", None, *HANDSHAKE, KEY, "{}"), 403),
    "socket from elsewhere": (request("GET", SOCKET, None, *HANDSHAKE, KEY, "Origin: http://evil.example", "{}"), 403),
    "socket without a key": (request("GET", SOCKET, None, *HANDSHAKE, "{}"), 400),
    "socket of another version": (request("GET", SOCKET, None, *HANDSHAKE[:2], KEY, "{}"), 400),
    "socket by POST": (request("POST", SOCKET, None, *HANDSHAKE, KEY, "{}"), 400),
}


def answer_id(served: Served, data: bytes, status: int) -> str:
    answer = ask(served.port, data, "HEAD" if data.startswith(b"HEAD") else "GET")
    assert answer.status == status
    return answer.headers["x-request-id"]


@pytest.mark.parametrize("case", CASES)
def test_every_answer_has_an_id(server: Served, case: str) -> None:
    data, status = CASES[case]
    made = [answer_id(server, data.replace(b"{}", b"X-Request-Id: not well-formed", 1), status) for _ in range(2)]
    assert len(set(made)) == 2
    assert all(len(each) == 32 for each in made)
    if b"{}" in data and data.index(b"{}") < 70_000:
        assert answer_id(server, data.replace(b"{}", MINE.encode(), 1), status) == "mine-1"


def test_answers_about_keys_and_queues_have_it(serve: Serve) -> None:
    served = serve(max_concurrent=1, max_queue=0, api_keys=("one", "two"))
    served.script.render = gate = Gate()
    body = b'{"input": "Hello there.", "response_format": "pcm"}'
    assert answer_id(served, request("GET", "/v1/models", None, MINE), 401) == "mine-1"
    with Raw(served.port) as busy:
        busy.send(request("POST", "/v1/audio/speech", body, "Authorization: Bearer one"))
        wait_until(lambda: served.open_requests == 1)
        full = request("POST", "/v1/audio/speech", body, "Authorization: Bearer two", MINE)
        assert answer_id(served, full, 429) == "mine-1"
        gate.open()


def test_a_connection_that_is_refused_has_one_too(serve: Serve) -> None:
    served = serve(max_connections=2, client_share=1)
    served.script.render = gate = Gate()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Raw(served.port)).send(
                request("POST", "/v1/audio/speech", b'{"input": "Hi.", "response_format": "pcm"}')
            )
        wait_until(lambda: served.open_requests == 2)
        with Raw(served.port) as refused:
            answer = refused.answer()
        gate.open()
    assert answer.status == 503
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("form", ["text", "json"])
async def test_lines_of_the_log_have_it(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = root.handlers[:]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        logging.getLogger("echo.steps").info("in the middle")

    async def unused() -> None:
        raise AssertionError

    try:
        set_up_log(form)
        logging.getLogger("echo.steps").info("before")
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": [(b"x-request-id", b"mine-1")]}
        await RequestLog(app)(scope, unused, unused)  # type: ignore[arg-type]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    before, middle, end = capsys.readouterr().err.splitlines()
    assert "mine-1" not in before
    if form == "json":
        assert json.loads(middle)["request_id"] == json.loads(end)["request_id"] == "mine-1"
    else:
        assert middle.endswith("in the middle [mine-1]")
        assert end.count("mine-1") == 1
