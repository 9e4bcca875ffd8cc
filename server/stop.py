"""The HTTP server's end: what a stop signal does, and how connections are closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from typing_extensions import override

from echo.drain import Drain

log = logging.getLogger(__name__)

#: Exit status when the device has died or hangs (EX_SOFTWARE of sysexits.h), for the service manager's eyes.
DEVICE_STOPPED = 70
#: Seconds after the grace of open streams in which the device is freed; then the process is ended by force.
_FREEING_S = 10.0
#: Seconds for streams that are broken off to end.
_BREAK_OFF_S = 0.5
#: Seconds between two looks at whether connections are open.
_LOOK_S = 0.05


class Server(uvicorn.Server):
    """Drains at the first stop signal, and is ended by a second one at once; the process ends in any case.

    uvicorn itself would close the listener at the signal, and all sockets with it.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, longest_s: float) -> None:
        """``longest_s``: seconds that the drain takes at most."""
        super().__init__(config)
        self._drain = drain
        self._last = threading.Timer(longest_s + _FREEING_S, _end_now)
        self._last.daemon = True

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._captured_signals:
            # Nothing is logged: the signal may have come while the log was being written.
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._captured_signals.append(sig)  # which is sent again at the end, so that the exit status tells it
        self._drain.begin()
        self._set_deadline()

    @override
    async def on_tick(self, counter: int) -> bool:
        if self._captured_signals and not self.should_exit:
            self._follow(self._captured_signals[0])
        return await super().on_tick(counter)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.refuse()
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if not isinstance(connection, self.config.ws_protocol_class or ()):
                connection.shutdown()  # at the end of its answer
        if self.server_state.connections:
            count = len(self.server_state.connections)
            log.info("no new connections; waiting for %d open ones (a second signal ends the process at once)", count)
        while self.server_state.connections and self._drain.left_s:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(_LOOK_S)
        self.config.timeout_graceful_shutdown = max(_BREAK_OFF_S, self._drain.left_s)  # type: ignore[assignment]
        await super().shutdown(sockets)

    def stop(self) -> None:
        """Shut down as after a signal, without a window."""
        self.should_exit = True
        self._set_deadline()

    def _follow(self, number: int) -> None:
        """Go on with what a signal has begun: wait for the end of the window, then exit."""
        by_hand = number == signal.SIGINT
        if not self._drain.refusing:
            window_s = self._drain.start(brief=by_hand)
            if by_hand and _at_terminal():
                self._drain.refuse()
            elif window_s:
                log.info("not ready any more; everything is still served for up to %g s", window_s)
        self.should_exit = self._drain.refusing

    def _set_deadline(self) -> None:
        with contextlib.suppress(RuntimeError):  # it may have been started already
            self._last.start()


def _at_terminal() -> bool:
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # it has been closed
        return False


def _end_now() -> None:
    """End the process whatever its other threads are at: those that hang would be waited for otherwise."""
    log.critical("the server has not ended in its time; ending the process")
    logging.shutdown()
    os._exit(DEVICE_STOPPED)
