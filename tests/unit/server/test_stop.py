"""What a first signal does; what a second one does is seen in tests/e2e/test_stop.py, from outside."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator

import pytest
import uvicorn
from typing_extensions import override

from echo.drain import Drain
from server.stop import Server

#: Far longer than any test takes.
LONG_S = 3600.0


class Terminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


class Process:
    """A server that is not listening, and what is open on it."""

    def __init__(self) -> None:
        self.open = 1
        self.drain = Drain(LONG_S, LONG_S, serving=lambda: True, open_requests=lambda: self.open)
        self.server = Server(uvicorn.Config("nothing:app"), self.drain, LONG_S)

    async def ends(self) -> bool:
        """Whether it goes on to its shutdown."""
        return await self.server.on_tick(1)


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.server._last.cancel()  # it would end the tests
    made.drain.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_is_not_ready_at_once_and_goes_on(
    process: Process, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert not await process.ends()
    process.server.handle_exit(number, None)
    assert process.drain.begun
    assert not await process.ends()
    assert not process.drain.refusing


@pytest.mark.parametrize("stdin", [None, io.StringIO()])
async def test_ctrl_c_waits_for_what_is_open_where_nobody_sits(
    process: Process, stdin: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    process.server.handle_exit(signal.SIGINT, None)
    assert not await process.ends()
    process.open = 0
    await process.drain.finish()
    assert await process.ends()


async def test_ctrl_c_in_a_terminal_has_no_window(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    process.server.handle_exit(signal.SIGINT, None)
    assert await process.ends()
    assert process.drain.left_s > 0  # what is open has its grace


async def test_sigterm_in_a_terminal_has_one(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    process.server.handle_exit(signal.SIGTERM, None)
    process.open = 0
    assert not await process.ends()


async def test_after_a_drain_by_request_there_is_nothing_to_wait_for(process: Process) -> None:
    process.drain.refuse()
    process.server.handle_exit(signal.SIGTERM, None)
    assert await process.ends()
