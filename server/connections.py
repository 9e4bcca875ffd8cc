"""All connections of the server: who is let in, who has to go, and what they hold together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from echo.telemetry import Metrics
from server.address import is_within
from server.framing import Refusal
from server.gate import Gate
from server.limits import ConnectionLimits

log = logging.getLogger(__name__)

#: Seconds between two looks at every connection.
_CHECK_S = 1.0
#: Seconds between two lines of the log about the same.
_SAY_S = 10.0
#: Refused connections that are told why at the same time; of more the first are cut off.
_LEAVING = 16
#: Why a connection was ended that are worth a line in the log; the others happen every day.
_TOLD = {
    "stalled_reader": "took nothing of its answer for {send_s:g} s",
    "unwanted_body": "went on sending a body that had been refused",
    "endless_message": "sent frames without an end",
}


class Connections:
    """Counts connections, in total and by address, and looks after each of them once a second.

    A new one that would be too many takes the place of the one that has been idle for longest; only if none is idle it
    is refused. ``protocol`` is what the HTTP server makes one per connection of.
    """

    def __init__(self, limits: ConnectionLimits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._open: set[Gate] = set()
        #: Those that are told why they are refused, or are being closed for others.
        self._leaving: set[Gate] = set()
        self._by_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._said: dict[str, float] = {}
        metrics.connections.set_function(lambda: len(self._open))
        metrics.unsent_bytes.set_function(self.unsent)

    def protocol(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> Gate:
        """Make the protocol of a new connection; with the arguments that uvicorn makes its own with."""

        def make(gate: Gate) -> asyncio.Protocol:
            # The state reaches every request of the connection as ``scope["state"]``.
            return AutoHTTPProtocol(  # type: ignore[call-arg]
                config=config, server_state=server_state, app_state={**app_state, "connection": gate}, _loop=_loop
            )

        return Gate(self, make)

    def unsent(self, client: str | None = None) -> int:
        """Bytes of answers, of one client or of all, that the system has not taken yet."""
        return sum(gate.unsent for gate in self._open if client is None or gate.client == client)

    # -- what gates call

    def admit(self, gate: Gate) -> Refusal | None:
        """Let a connection in; returns why not otherwise."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)
        limits, address = self.limits, gate.address
        if self._by_address[address] >= limits.client_connections and self._is_limited(address):
            if not self._make_room(address):
                self._say("client", f"{address} has {limits.client_connections} connections; more are refused")
                return self._refuse(gate, 429, "too_many_connections", "Too many connections from your address.")
        elif len(self._open) >= limits.connections:
            if not self._make_room(None):
                self._say("total", f"{len(self._open)} connections are open, as many as may be; more are refused")
                return self._refuse(gate, 503, "too_many_connections", "The server has too many connections.")
        elif limits.descriptors is not None and gate.descriptor >= limits.descriptors:
            made = self._make_room(None)
            self._say("descriptors", f"descriptors run out with {len(self._open)} connections; some are closed")
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

    def refused(self, gate: Gate, refusal: Refusal) -> None:
        """Count what was refused before it reached the application."""
        self._metrics.refusals.labels(str(refusal.status), refusal.reason).inc()
        if gate in self._open:
            self._say(refusal.reason, f"{gate.address}: refused with {refusal.status}: {refusal.message}")

    def ended(self, gate: Gate, reason: str) -> None:
        """Count a connection that is being ended."""
        self._metrics.ended.labels(reason).inc()
        if reason in _TOLD:
            told = _TOLD[reason].format(send_s=self.limits.send_s)
            self._say(reason, f"{gate.address} {told}: its connection is ended")

    # -- inside

    def _is_limited(self, address: str) -> bool:
        """Tell whether an address has a share: a Unix socket and a proxy stand for many clients."""
        shared = self.limits.client_connections < self.limits.connections
        return shared and bool(address) and not is_within(address, self.limits.trusted)

    def _refuse(self, gate: Gate, status: int, reason: str, message: str) -> Refusal:
        for other in list(self._leaving)[: max(0, len(self._leaving) + 1 - _LEAVING)]:
            other.end("room")
        self._leaving.add(gate)
        return Refusal(status, reason, message)

    def _make_room(self, address: str | None) -> bool:
        """End the connection that has been idle for longest, of one address or of all."""
        idle = [gate for gate in self._open if gate.idle and address in (None, gate.address)]
        if not idle:
            return False
        oldest = min(idle, key=lambda gate: gate.idle_since)
        self.remove(oldest)  # counted out at once: many may come before its end is noticed
        self._leaving.add(oldest)
        oldest.make_room()
        self._say("room", f"{len(self._open)} connections are open: idle ones are closed for new ones")
        return True

    def _check(self) -> None:
        now = time.monotonic()
        for gate in (*self._open, *self._leaving):
            gate.check(now)
        self._timer = None
        if self._open or self._leaving:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)

    def _say(self, what: str, line: str) -> None:
        """Log a line, unless one about the same was logged a moment ago."""
        now = time.monotonic()
        if now - self._said.get(what, -_SAY_S) >= _SAY_S:
            self._said[what] = now
            log.warning("%s", line)
