"""Clients that leave, engines that fail, servers that are not ready: nothing stays held, nothing looks complete."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from echo.engines.fake import FakeEngine
from echo.errors import LoadError
from echo.runtime import Status
from echo.settings import Settings
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, serving, wait_until

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."
WAYS: list[dict[str, Any]] = [
    {"response_format": "pcm"},
    {"response_format": "mp3"},
    {"response_format": "wav", "wav_streaming": True},
    {"response_format": "wav", "stream": True},
    {"response_format": "flac", "stream": False, "block_sizes": [16, 32, 32], "num_steps": [1, 1, 1]},
    {"response_format": "pcm", "stream_format": "sse"},
]
WHOLE = [
    {"response_format": "wav"},
    {"response_format": "pcm", "stream": False, "block_sizes": [16, 32, 32], "num_steps": [1, 1, 1]},
]
STREAMED = [way for way in WAYS if way["response_format"] != "wav" and way.get("stream") is None]


def names(way: dict[str, Any]) -> str:
    return "-".join(f"{value}" if key == "response_format" else key for key, value in way.items())


@pytest.mark.parametrize("way", WAYS, ids=names)
def test_a_client_that_hangs_up_before_the_first_byte_frees_its_slot(server: Served, way: dict[str, Any]) -> None:
    server.script.render = gate = Gate()
    with server.send({"input": TEXT, **way}):
        assert gate.reached.wait(PATIENCE_S)
        assert server.open_requests == 1
    server.wait_idle()  # while the engine is still in the middle of a block
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    assert not gate.expired


@pytest.mark.parametrize("way", STREAMED, ids=names)
def test_a_client_that_hangs_up_while_it_listens_frees_its_slot(server: Served, way: dict[str, Any]) -> None:
    server.script.render = gate = Gate(block=1)
    with server.send({"input": TEXT * 2, **way}) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert gate.reached.wait(PATIENCE_S)
        assert server.open_requests == 1
    server.wait_idle()
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    assert not gate.expired


def test_a_client_that_stops_reading_and_then_leaves_frees_its_slot(server: Served) -> None:
    server.script.audio_s_per_char = 1.0  # nine chunks of 2.6 MB: more than the buffers in between hold
    with server.send({"input": TEXT * 60}) as connection:
        assert connection.recv(16)
        wait_until(lambda: len(server.script.spoken) > 1)
    server.wait_idle()
    assert len(server.script.spoken) < 8


def test_a_client_that_hangs_up_while_it_uploads_is_forgotten(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with server.send(b"", headers="X-Request-Id: half\r\nExpect: 100-continue\r\n"):
        pass
    body = json.dumps({"input": TEXT})
    head = (
        f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nX-Request-Id: half-2\r\nContent-Length: {len(body) + 9}\r\n\r\n"
    )
    with server.connect() as connection:
        connection.sendall((head + body).encode())
    wait_until(lambda: "half-2" in caplog.text)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not server.script.spoken


@pytest.mark.parametrize("way", [way for way in STREAMED if "stream_format" not in way], ids=names)
def test_a_failure_after_the_first_byte_breaks_the_connection(
    server: Served, way: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    server.script.fail_after_blocks = 1
    received = b""
    with server.send({"input": TEXT, **way}) as connection:
        while data := connection.recv(65536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding: chunked" in head.lower()
    assert len(body) > 1000
    assert not body.endswith(b"0\r\n\r\n")
    assert b"error" not in body
    server.wait_idle()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors if record.name.startswith("routes")] == [
        "broke off /v1/audio/speech after the first byte: Generation failed."
    ]
    assert all(record.exc_info is None for record in errors)


def test_httpx_sees_the_failure_as_an_error(server: Served) -> None:
    server.script.fail_after_blocks = 1
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{server.url}/v1/audio/speech", json={"input": TEXT})


@pytest.mark.parametrize("way", WHOLE, ids=names)
def test_a_whole_file_that_fails_halfway_still_has_a_status(server: Served, way: dict[str, Any]) -> None:
    server.script.fail_after_blocks = 1
    answer = httpx.post(f"{server.url}/v1/audio/speech", json={"input": TEXT, **way})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "generation_failed"
    assert answer.headers["x-should-retry"] == "false"
    server.wait_idle()


@pytest.mark.slow
def test_while_the_model_loads_probes_answer_and_speech_waits(serve: Serve) -> None:
    loading = threading.Event()

    def load(settings: Any, gate: Any) -> FakeEngine:
        loading.wait(PATIENCE_S)
        return FakeEngine()

    server = serve(load)
    health = httpx.get(f"{server.url}/health")
    assert (health.status_code, health.json()["status"], health.json()["model_loaded"]) == (200, "loading", False)
    ready = httpx.get(f"{server.url}/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "loading"})
    assert httpx.get(f"{server.url}/").status_code == 200
    assert httpx.get(f"{server.url}/v1/models").status_code == 200
    assert httpx.get(f"{server.url}/v1/voices").json()["data"]
    refused = httpx.post(f"{server.url}/v1/audio/speech", json={"input": TEXT})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_not_ready"
    assert int(refused.headers["retry-after"]) >= 1
    loading.set()
    wait_until(lambda: server.runtime.status is Status.READY)
    assert httpx.get(f"{server.url}/ready").status_code == 200
    assert httpx.get(f"{server.url}/health").json()["status"] == "healthy"
    assert httpx.post(f"{server.url}/v1/audio/speech", json={"input": TEXT}).status_code == 200


def test_a_model_that_cannot_be_loaded_is_told_to_the_operator_only(serve: Serve) -> None:
    def load(settings: Any, gate: Any) -> FakeEngine:
        raise LoadError("weights are missing in /secret/place")

    server = serve(load)
    wait_until(lambda: server.runtime.status is Status.FAILED)
    assert httpx.get(f"{server.url}/health").json()["status"] == "failed"
    refused = httpx.post(f"{server.url}/v1/audio/speech", json={"input": TEXT})
    assert refused.status_code == 503
    assert "secret" not in refused.text


def test_an_engine_that_refuses_is_passed_on_with_its_hint(server: Served) -> None:
    server.script.refuse = True
    refused = httpx.post(f"{server.url}/v1/audio/speech", json={"input": TEXT})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


def test_requests_are_served_side_by_side(server: Served) -> None:
    server.script.render = gate = Gate()
    connections = [server.send({"input": TEXT, "stream": False, "response_format": "pcm"}) for _ in range(8)]
    wait_until(lambda: len(server.script.spoken) == 8)
    assert httpx.get(f"{server.url}/health").status_code == 200
    gate.open()
    for connection in connections:
        with connection:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
    assert not gate.expired


@pytest.mark.slow
def test_a_stream_that_outlasts_the_grace_of_a_shutdown_is_broken_off(
    voices_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(block=1)
    with serving(Settings(voices_dir=(str(voices_dir),))) as server:
        server.script.render = gate
        connection = server.send({"input": TEXT})
        received = connection.recv(12)  # of which the shutdown makes no error any more
        assert gate.reached.wait(PATIENCE_S)
    gate.open()
    with connection:
        while data := connection.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith(b"0\r\n\r\n")
    assert "was cut off by the shutdown" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_an_answer_that_had_not_begun_at_the_end_of_the_grace_is_an_error_with_an_id(voices_dir: Path) -> None:
    gate = Gate()
    with serving(Settings(voices_dir=(str(voices_dir),))) as server:
        server.script.render = gate
        connection = server.send({"input": TEXT, "stream": False}, headers="X-Request-Id: late\r\n")
        assert gate.reached.wait(PATIENCE_S)
    gate.open()
    with connection:
        received = b""
        while data := connection.recv(65536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"x-request-id: late" in head.lower()
    assert b"retry-after" in head.lower()
    assert json.loads(body)["error"]["code"] == "model_not_ready"
