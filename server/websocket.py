"""The protocol of a WebSocket connection."""

from __future__ import annotations

import contextlib

from typing_extensions import override
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, which the end of the server does not break."""

    @override
    def shutdown(self) -> None:
        """Close the connection because the server ends."""
        # A client that is leaving has been answered already. uvicorn answers it again, which raises, and then neither
        # the other connections nor the application would be closed.
        with contextlib.suppress(InvalidState):
            super().shutdown()
