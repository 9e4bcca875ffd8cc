"""What the server says when it starts, and what it answers before it is ready."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.e2e.conftest import Held, Start


def test_it_answers_at_once_and_speaks_only_when_it_is_ready(held: Held) -> None:
    server = held.server
    health = server.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "loading")
    ready = server.get("/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "loading"})
    refused = server.speak("Too early.")
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.json()["error"]["code"] == "model_not_ready"
    held.release()
    server.wait_ready()
    health = server.get("/health")
    assert (health.json()["status"], health.json()["model_loaded"]) == ("healthy", True)
    assert server.speak("In time.").status_code == 200


def test_it_tells_its_settings_but_no_secret_and_that_a_preview_speaks(start: Start) -> None:
    server = start(ECHO_MAX_QEUE=3, ECHO_API_KEYS="key-of-the-house,another-key", ECHO_MAX_QUEUE=7)
    server.wait_for_log("embedded PREVIEW model")
    log = server.log
    assert "ECHO_MAX_QUEUE=7" in log
    assert "PORT=0" in log
    assert "ECHO_API_KEYS=" in log
    assert "key-of-the-house" not in log
    assert "another-key" not in log
    assert "ECHO_MAX_QEUE is ignored; did you mean ECHO_MAX_QUEUE?" in log
    assert server.output == ""
    assert server.get("/v1/voices").status_code == 401
    assert server.get("/v1/voices", headers={"Authorization": "Bearer another-key"}).status_code == 200


def test_a_wrong_setting_ends_the_start_with_one_line(start: Start) -> None:
    server = start(ECHO_MAX_QUEUE="many")
    assert server.wait() == 2
    (line,) = server.log.splitlines()
    assert "ECHO_MAX_QUEUE" in line
    assert "'many'" in line
    assert "integer" in line


def test_a_model_that_is_not_there_ends_the_start_with_the_reason(start: Start, tmp_path: Path) -> None:
    server = start("--model", str(tmp_path / "no-such-model"))
    assert server.wait() == 1
    (line,) = [line for line in server.log.splitlines() if " ERROR " in line]
    assert "no-such-model" in line
    assert "Traceback" not in server.log


def test_an_address_that_is_taken_ends_the_start_with_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = start("--port", str(port))
        assert server.wait() == 1
    (line,) = [line for line in server.log.splitlines() if " ERROR " in line]
    assert "127.0.0.1" in line
    assert str(port) in line
    assert "address already in use" in line
    assert "Traceback" not in server.log


def test_a_folder_without_a_model_ends_the_start_with_what_is_missing(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "half-a-model"
    folder.mkdir()
    server = start("--model", str(folder))
    assert server.wait() == 1
    (line,) = [line for line in server.log.splitlines() if " ERROR " in line]
    assert ".safetensors" in line
    assert "Traceback" not in server.log


def test_json_logs_are_json_from_the_first_line(start: Start, tmp_path: Path) -> None:
    server = start("--model", str(tmp_path / "none"), ECHO_LOG_FORMAT="json", ECHO_MAX_QEUE=1)
    assert server.wait() == 1
    records = [json.loads(line) for line in server.log.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(records[0])
