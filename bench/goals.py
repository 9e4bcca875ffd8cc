"""What one large GPU should reach with the released shapes; shown beside whatever was measured. Needs no package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit for a figure: at most (``≤``) or at least (``≥``) so much of a unit."""

    name: str
    sign: str
    limit: float
    unit: str = ""

    def met(self, value: float) -> bool:
        """Whether a value meets the goal (NaN does not)."""
        return value <= self.limit if self.sign == "≤" else value >= self.limit

    @property
    def wanted(self) -> str:
        """The goal as text."""
        return f"{self.sign} {self.limit:g}{self.unit}"


#: p95 of the first byte of a real-time stream, in seconds.
REAL_TIME_FIRST_BYTE_S = 0.4

ENGINE_FIRST_FRAME = Goal("first frame in the engine, one stream, p50", "≤", 25, " ms")
SOCKET_FIRST_BYTE = Goal("first byte at the socket, 100 characters, p50", "≤", 40, " ms")
REAL_TIME_FACTOR = Goal("real-time factor, one stream", "≤", 0.01)
REAL_TIME_STREAMS = Goal("real-time streams with p95 of the first byte within 400 ms and no underrun", "≥", 128)
HANG_UP = Goal("work left after a hang-up, p99", "≤", 20, " ms")

GPU_GOALS = (ENGINE_FIRST_FRAME, SOCKET_FIRST_BYTE, REAL_TIME_STREAMS, REAL_TIME_FACTOR, HANG_UP)
