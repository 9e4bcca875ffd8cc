"""Shutting down while sockets are at every stage of their close."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from echo.settings import Settings
from echo.telemetry import Metrics
from server.serve import configure


class _Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.written = asyncio.Event()
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)
        self.written.set()

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.mark.parametrize("leaves", [False, True])
async def test_shutdown_ends_a_socket_whose_client_is_leaving(leaves: bool) -> None:
    config = configure(FastAPI(), Settings(), Metrics())
    config.app = _application
    config.load()
    assert config.ws_protocol_class is not None
    state = ServerState()
    server: Any = config.ws_protocol_class(config=config, server_state=state, app_state={})
    wire = _Wire()
    server.connection_made(wire)
    client = ClientProtocol(parse_uri("ws://localhost/"))
    client.send_request(client.connect())
    server.data_received(b"".join(client.data_to_send()))
    await asyncio.wait_for(wire.written.wait(), 60)
    client.receive_data(wire.sent)
    if leaves:
        client.send_close(1000)
        server.data_received(b"".join(client.data_to_send()))
    server.shutdown()
    assert wire.closed
    await asyncio.wait_for(asyncio.gather(*state.tasks), 60)
