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

#: Of half an hour at 120 % of what the server can take. A day at that slope of the memory still fits into 3 GB; that of
#: the descriptors is the noise of what comes and goes while it is measured.
SOAK_HUNG = Goal("requests and streams that never ended", "≤", 0)
SOAK_BROKEN = Goal("requests that broke off, or failed other than by 429 or 503", "≤", 0)
SOAK_READY = Goal("times that /ready was wrong", "≤", 0)
SOAK_SERVED = Goal("requests that were served", "≥", 1)
SOAK_MEMORY = Goal("growth of the memory, second half", "≤", 100, " MiB/h")
SOAK_DESCRIPTORS = Goal("growth of the file descriptors, second half", "≤", 10, "/h")

GPU_GOALS = (ENGINE_FIRST_FRAME, SOCKET_FIRST_BYTE, REAL_TIME_STREAMS, REAL_TIME_FACTOR, HANG_UP)
