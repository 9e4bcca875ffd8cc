"""The protocol of an HTTP connection."""

from __future__ import annotations

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.framing import Refusal
from server.gate import Gate


class RequestProtocol(HttpToolsProtocol):
    """uvicorn's own, which answers what is no HTTP like every other refusal."""

    @override
    def send_400_response(self, msg: str) -> None:
        gate: Gate = self.app_state["connection"]
        # Known where the head could be read and the body cannot.
        known = self.scope.get("state", {}).get("request_id") if hasattr(self, "scope") else None
        self.transport.write(gate.answer_to(Refusal(400, "invalid_http", msg), known))
        self.transport.close()
