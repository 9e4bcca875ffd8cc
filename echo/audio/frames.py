"""Telephone frames: G.711 bytes cut to exactly 20 ms each, without gaps between the pieces they were made of."""

from __future__ import annotations

#: 20 ms of G.711, one byte per sample at 8 kHz: what telephone systems send at a time (RFC 3551, 4.2 and 4.5.14).
FRAME_BYTES = 160
#: Zero in mu-law (G.711, table 2a).
MULAW_SILENCE = b"\xff"


class TelephoneFrames:
    """Cuts one stream of mu-law bytes into pieces of whole frames; what is left over waits for more.

    ``most`` is how many frames a piece has at most. ``push`` any number of times, then ``finish`` once.
    """

    def __init__(self, most: int = 1) -> None:
        self._most_bytes = most * FRAME_BYTES
        self._rest = b""

    def push(self, data: bytes) -> list[bytes]:
        """Take bytes; return the pieces that are ready, each as long as can be."""
        data = self._rest + data
        whole = len(data) - len(data) % FRAME_BYTES
        self._rest = data[whole:]
        return [data[start : min(start + self._most_bytes, whole)] for start in range(0, whole, self._most_bytes)]

    def finish(self) -> list[bytes]:
        """Return the last frame, filled up with silence, if anything is left over."""
        rest, self._rest = self._rest, b""
        return [rest.ljust(FRAME_BYTES, MULAW_SILENCE)] if rest else []
