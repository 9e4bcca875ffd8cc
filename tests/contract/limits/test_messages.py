"""How large a message on a socket may be."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from contextlib import ExitStack

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.limits import ConnectionLimits
from tests.contract.inworld.calls import SOCKET_PATH
from tests.contract.serving import PATIENCE_S, Serve, Served, wait_until

OMNI_PATH = "/v1/audio/speech/stream"
HANDSHAKE = (
    f"GET {OMNI_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()
CONFIG = {"type": "session.config", "response_format": "pcm", "stream_audio": True}


def recording(seconds: float) -> str:
    """Return a clip as a data: address."""
    file = io.BytesIO()
    phase = 2 * np.pi * 150 / 44_100 * np.arange(int(seconds * 44_100))
    soundfile.write(file, 0.2 * np.sin(phase), 44_100, format="WAV", subtype="PCM_16")
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()


def opened(server: Served, path: str) -> ClientConnection:
    return connect(server.ws_url + path, open_timeout=PATIENCE_S, max_size=None)


def close_code(socket: ClientConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(timeout=PATIENCE_S)
    return socket.close_code or 0


@pytest.mark.parametrize("seconds", [12.0, 34.0])
def test_a_recording_of_half_a_minute_is_a_voice(server: Served, seconds: float) -> None:
    with opened(server, OMNI_PATH) as socket:
        socket.send(json.dumps({**CONFIG, "ref_audio": recording(seconds)}))
        assert json.loads(socket.recv(timeout=PATIENCE_S))["type"] == "session.configured"
        socket.send(json.dumps({"type": "input.text", "text": "Hello there."}))
        socket.send(json.dumps({"type": "input.done"}))
        while isinstance(message := socket.recv(timeout=PATIENCE_S), bytes) or "session.done" not in message:
            pass
    assert server.script.spoken[-1].voice is not None


def test_other_sockets_take_no_more_than_text(server: Served) -> None:
    with opened(server, SOCKET_PATH) as socket:
        socket.send(json.dumps({"padding": "x" * 1_000_000}))
        assert "error" in json.loads(socket.recv(timeout=PATIENCE_S))
        socket.send(json.dumps({"padding": "x" * 1_500_000}))
        assert close_code(socket) == 1009


@pytest.mark.parametrize(
    ("path", "size"),
    [(OMNI_PATH, 5_000_000), (OMNI_PATH, 30_000_000), (SOCKET_PATH, 3_000_000), (SOCKET_PATH, 30_000_000)],
)
def test_a_client_learns_why_its_message_is_not_taken(server: Served, path: str, size: int) -> None:
    with opened(server, path) as socket:
        with contextlib.suppress(ConnectionClosed):
            socket.send("x" * size)
        assert close_code(socket) == 1009


def test_a_message_without_an_end_ends_the_connection(server: Served) -> None:
    with opened(server, OMNI_PATH) as socket, pytest.raises(ConnectionClosed):
        socket.send("x" * 2**16 for _ in range(2**12))
    wait_until(lambda: not server.runtime.service.admission.open)


def test_recordings_count_for_as_long_as_they_are_held(serve: Serve) -> None:
    server = serve(max_incoming_bytes=6_000_000)
    config = json.dumps({**CONFIG, "ref_audio": recording(20.0)})
    with ExitStack() as stack:
        first = stack.enter_context(opened(server, OMNI_PATH))
        first.send(config)
        assert json.loads(first.recv(timeout=PATIENCE_S))["type"] == "session.configured"
        first.send(config)  # replaces the one before
        assert json.loads(first.recv(timeout=PATIENCE_S))["type"] == "session.configured"
        second = stack.enter_context(opened(server, OMNI_PATH))
        second.send(config)
        assert close_code(second) == 1013
        first.close()

        def let_in() -> bool:
            with opened(server, OMNI_PATH) as again:
                again.send(config)
                try:
                    return bool(json.loads(again.recv(timeout=PATIENCE_S))["type"] == "session.configured")
                except ConnectionClosed:
                    return False

        wait_until(let_in)


def test_unfinished_messages_of_all_are_limited(serve: Serve) -> None:
    server = serve(max_incoming_bytes=2**20)
    usual = ConnectionLimits(connections=1, client_connections=1).frames_bytes
    part = bytes([0x81, 0xFF]) + (4_000_000).to_bytes(8, "big") + bytes(4) + bytes(usual + 2**19 - 100)
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(server.connect())
            connection.sendall(HANDSHAKE)
            assert b" 101 " in connection.recv(4096)
            with contextlib.suppress(OSError):
                connection.sendall(part)
        wait_until(lambda: ended(server, "endless_message") == 1)


def ended(server: Served, reason: str) -> float:
    return server.runtime.metrics.registry.get_sample_value("echo_ended_connections_total", {"reason": reason}) or 0.0
