"""Why a clip was not decoded, and what its sender is told; the child process sends only the reason's number."""

from __future__ import annotations

from enum import IntEnum

from echo.errors import BadRequest

#: The most that FFmpeg converts. A recording of more is none of a voice.
MAX_CHANNELS = 64


class Refusal(IntEnum):
    """A reason; the first three are the child's, the others are what its owner sees."""

    UNDECODABLE = 1
    CHANNELS = 2
    MEMORY = 3
    CRASHED = 4
    TOO_LONG = 5


_MESSAGES = {
    Refusal.UNDECODABLE: "The voice's audio cannot be decoded.",
    Refusal.CHANNELS: f"The voice's audio has too many channels: at most {MAX_CHANNELS} are allowed.",
    Refusal.MEMORY: "The voice's audio cannot be decoded: that would take too much memory.",
    Refusal.CRASHED: "The voice's audio cannot be decoded: the file makes the decoder fail.",
    Refusal.TOO_LONG: "The voice's audio cannot be decoded: that would take too long.",
}


class Refused(BadRequest):
    """A clip that cannot be used, by what is wrong with it."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(_MESSAGES[reason], param="voice")
        self.reason = reason
