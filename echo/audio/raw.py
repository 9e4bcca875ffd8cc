"""What an encoder is, and the one for formats that are bare samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from typing_extensions import override

from echo.types import Audio


class Encoder(Protocol):
    """Encodes one stream of samples; push any number of times, then finish once."""

    def push(self, samples: Audio) -> bytes:
        """Take samples; returns the bytes that are ready."""
        ...

    def finish(self) -> bytes:
        """End the stream; returns the bytes that were held back."""
        ...

    def close(self) -> None:
        """Free the encoder, also of a stream that is not finished."""
        ...


class RawEncoder(Encoder):
    """Packs samples without a header; nothing is held back."""

    def __init__(self, pack: Callable[[Audio], bytes]) -> None:
        self._pack = pack

    @override
    def push(self, samples: Audio) -> bytes:
        return self._pack(samples)

    @override
    def finish(self) -> bytes:
        return b""

    @override
    def close(self) -> None:
        pass
