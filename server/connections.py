"""All connections of the server: which are accepted, which are closed for others, and their bytes in total."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

from echo.telemetry import Metrics
from server.address import is_within
from server.framing import Refusal
from server.gate import Gate
from server.http import RequestProtocol
from server.limits import ConnectionLimits

log = logging.getLogger(__name__)

#: Interval between two checks of every connection, in seconds.
_CHECK_S = 1.0
#: Least seconds between two log lines about the same.
_LOG_S = 10.0
#: Refused connections that are answered at the same time; beyond that the oldest are cut off.
_MOST_LEAVING = 16
#: Log lines for the reasons to end a connection that are unusual.
_LOGGED = {
    "stalled_reader": "read nothing of its answer for {send_s:g} s",
    "unwanted_body": "kept sending a body that had been refused",
    "endless_message": "sent frames without an end",
}


class Connections:
    """Counts connections, in total and by address, and checks each once a second.

    A connection beyond the limit replaces the one that has been idle for longest, and is refused if none is idle.
    ``protocol`` is the factory that the HTTP server calls for each connection.
    """

    def __init__(self, limits: ConnectionLimits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        #: Bytes of unfinished messages of all sockets, beyond ``frames_bytes`` of each.
        self.large_frames = 0
        self._open: set[Gate] = set()
        #: Those that are being answered with a refusal, or closed for others.
        self._leaving: set[Gate] = set()
        self._by_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        #: When the next check is due, on the monotonic clock, and whether the last one was left out for being late.
        self._due = 0.0
        self._late = False
        #: When each kind of line was logged last.
        self._logged: dict[str, float] = {}
        metrics.connections.set_function(lambda: len(self._open))
        metrics.unsent_bytes.set_function(self.unsent)

    def protocol(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> Gate:
        """Make the protocol of a new connection; takes the arguments of uvicorn's own protocols."""

        def make(gate: Gate) -> asyncio.Protocol:
            # The state reaches every request of the connection as ``scope["state"]``.
            return RequestProtocol(
                config=config, server_state=server_state, app_state={**app_state, "connection": gate}, _loop=_loop
            )

        return Gate(self, make)

    def unsent(self, client: str | None = None) -> int:
        """Bytes of answers, of one client or of all, that the system has not taken yet."""
        return sum(gate.unsent for gate in self._open if client is None or gate.client == client)

    # -- what gates call

    def admit(self, gate: Gate) -> Refusal | None:
        """Accept a connection, or return why it is refused."""
        if self._timer is None:
            self._check_later()
        limits, address = self.limits, gate.address
        if self._by_address[address] >= limits.client_connections and self._is_limited(address):
            if not self._make_room(address):
                self._log("client", f"{address} has {limits.client_connections} connections; more are refused")
                return self._refuse(gate, 429, "too_many_connections", "Too many connections from your address.")
        elif len(self._open) >= limits.connections:
            if not self._make_room(None):
                self._log("total", f"{len(self._open)} connections are open, as many as may be; more are refused")
                return self._refuse(gate, 503, "too_many_connections", "The server has too many connections.")
        elif limits.descriptors is not None and gate.descriptor >= limits.descriptors:
            made = self._make_room(None)
            self._log("descriptors", f"descriptors run out with {len(self._open)} connections; some are closed")
            if not made:
                return self._refuse(gate, 503, "too_many_connections", "The server has too many connections.")
        self._open.add(gate)
        self._by_address[address] += 1
        return None

    def remove(self, gate: Gate) -> None:
        """Forget a connection that has ended."""
        self._leaving.discard(gate)
        if gate in self._open:
            self._open.discard(gate)
            self._by_address[gate.address] -= 1
            if not self._by_address[gate.address]:
                del self._by_address[gate.address]

    def refused(self, gate: Gate, refusal: Refusal, request_id: str) -> None:
        """Count and log a request that was refused before it reached the application."""
        self._metrics.refusals.labels(str(refusal.status), refusal.reason).inc()
        if gate in self._open:
            self._log(refusal.reason, f"{gate.address}: refused with {refusal.status}: {refusal.message} {request_id}")

    def ended(self, gate: Gate, reason: str) -> None:
        """Count a connection that is being ended, and log an unusual reason."""
        self._metrics.ended.labels(reason).inc()
        if reason in _LOGGED:
            cause = _LOGGED[reason].format(send_s=self.limits.send_s)
            self._log(reason, f"{gate.address} {cause}: its connection is ended")

    # -- inside

    def _is_limited(self, address: str) -> bool:
        """Whether the limit per client applies: a Unix socket and a trusted proxy stand for many clients."""
        shared = self.limits.client_connections < self.limits.connections
        return shared and bool(address) and not is_within(address, self.limits.trusted)

    def _refuse(self, gate: Gate, status: int, reason: str, message: str) -> Refusal:
        for other in list(self._leaving)[: max(0, len(self._leaving) + 1 - _MOST_LEAVING)]:
            other.end("room")
        self._leaving.add(gate)
        return Refusal(status, reason, message)

    def _make_room(self, address: str | None) -> bool:
        """End the connection that has been idle for longest, of one address or of all; False if none is idle."""
        idle = [gate for gate in self._open if gate.idle and address in (None, gate.address)]
        if not idle:
            return False
        oldest = min(idle, key=lambda gate: gate.idle_since)
        self.remove(oldest)  # at once: more may arrive before the event loop reports its end
        self._leaving.add(oldest)
        oldest.make_room()
        self._log("room", f"{len(self._open)} connections are open: idle ones are closed for new ones")
        return True

    def _check(self) -> None:
        now = time.monotonic()
        # A process that was stopped, or that had no core, first reads what has come meanwhile.
        self._late = not self._late and now - self._due > _CHECK_S
        if not self._late:
            for gate in (*self._open, *self._leaving):
                gate.check(now)
        self._timer = None
        if self._open or self._leaving:
            self._check_later()

    def _check_later(self) -> None:
        self._due = time.monotonic() + _CHECK_S
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)

    def _log(self, what: str, line: str) -> None:
        """Log a line, unless one about the same was logged a moment ago."""
        now = time.monotonic()
        if now - self._logged.get(what, -_LOG_S) >= _LOG_S:
            self._logged[what] = now
            log.warning("%s", line)
