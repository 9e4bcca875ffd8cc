"""How the HTTP server is set up."""

from __future__ import annotations

from fastapi import FastAPI

from echo.settings import Settings
from echo.telemetry import Metrics
from server.limits import connection_limits
from server.serve import configure

#: Bytes per second of the slowest format on a socket: 32 kbit/s, as base64.
SLOWEST = 32_000 / 8 * 4 / 3
#: Linux takes twice the size that is set; the buffers of the event loop and of the client have their default sizes.
ON_THE_WAY = 2 * connection_limits(Settings()).send_buffer + 64 * 1024 + 128 * 1024


def test_a_ping_waits_behind_audio_that_is_played_at_its_own_pace() -> None:
    config = configure(FastAPI(), Settings(), Metrics())
    assert config.ws_ping_timeout is not None
    assert config.ws_ping_timeout > ON_THE_WAY / SLOWEST
