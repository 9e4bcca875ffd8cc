"""A clock that is set while the server runs: limits count the time that passes, and what was read stays known."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.contract.serving import PATIENCE_S, Serve, Served

KEYS = '[game]\nkey = "game-key"\nrequests_per_minute = 2\n'


def speak(server: Served, key: str = "game-key") -> int:
    body = {"input": "Hello.", "voice": "bob", "response_format": "pcm"}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}/v1/audio/speech", json=body, headers=headers, timeout=PATIENCE_S).status_code


@pytest.mark.parametrize("days", [-1000, 1000])
def test_no_limit_is_lifted_and_nobody_is_locked_out(
    serve: Serve, days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(KEYS)
    server = serve(keys_file=file, api_keys=("other-key",), max_failed_keys=2)
    assert speak(server, "other-key") == 200
    assert [speak(server) for _ in range(3)] == [200, 200, 429]
    assert [speak(server, "wrong") for _ in range(3)] == [401, 401, 429]
    read = server.runtime.cache.stats().misses
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr("time.time", lambda: now() + days * 86_400)
    monkeypatch.setattr("time.time_ns", lambda: now_ns() + days * 86_400 * 10**9)
    assert speak(server) == 429
    assert speak(server, "wrong") == 429
    assert [speak(server, "other-key") for _ in range(3)] == [200] * 3
    assert server.runtime.cache.stats().misses == read  # the voice is not encoded again
    assert httpx.get(f"{server.url}/ready").status_code == 200
