"""The calls that are open now, by the id of their stream, and of the call itself."""

from __future__ import annotations

from compat.twilio.call import Call
from echo.errors import BadRequest, NotFound


class Calls:
    """Where an agent finds the call that it speaks in. One per application."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}

    def add(self, call: Call) -> None:
        """Open a call; raises BadRequest where one of these ids is open already."""
        if any(sid in self._open for sid in call.sids):
            raise BadRequest("streamSid: this call is open already.")
        self._open.update(dict.fromkeys(call.sids, call))

    def remove(self, call: Call) -> None:
        """Close a call."""
        for sid in call.sids:
            if self._open.get(sid) is call:
                del self._open[sid]

    def find(self, sid: str) -> Call:
        """Return an open call; raises NotFound."""
        if (call := self._open.get(sid)) is None:
            raise NotFound("There is no open call of this streamSid.")
        return call
