"""How far a telephone line has played what it was sent: only its marks tell."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Most audio that a line is sent ahead of what it has played, in seconds. Twilio throws away what is beyond 10 minutes
#: (its warning 31931); a caller who interrupts makes all of it void.
LEAD_S = 30.0
#: A line that has something to play and returns no mark for as long, in seconds, is not listening.
STALL_S = 30.0


class Stalled(Exception):
    """The line has stopped returning marks."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a mark is, in seconds of the line's audio, and when it was sent."""

    place_s: float
    sent_at: float


class Playback:
    """Counts the seconds that one line was sent and has played. Belongs to one event loop.

    A line has stalled if no mark comes back for ``stall_s``, or if one comes much later than the audio in front of it,
    ``lead_s`` at most, takes to play: whoever plays slowly would keep a slot for hours.
    """

    def __init__(
        self, lead_s: float = LEAD_S, stall_s: float = STALL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        #: Audio sent since the call began, and the part of it that is known to have been played, or dropped.
        self.sent_s = 0.0
        self.played_s = 0.0
        self._lead_s = lead_s
        self._stall_s = stall_s
        self._clock = clock
        #: Marks on their way, in order.
        self._marks: OrderedDict[str, _Mark] = OrderedDict()
        self._count = 0
        self._moved = asyncio.Event()

    @property
    def unmarked_s(self) -> float:
        """Seconds sent since the last mark."""
        last = next(reversed(self._marks.values()), None)
        return self.sent_s - (self.played_s if last is None else last.place_s)

    def sent(self, seconds: float) -> None:
        """Count audio that has been sent."""
        self.sent_s += seconds

    def mark(self, turn: int) -> str:
        """Return the name of a mark of a turn for what has been sent so far."""
        self._count += 1
        name = f"{turn}.{self._count}"
        self._marks[name] = _Mark(self.sent_s, self._clock())
        return name

    def returned(self, name: str) -> None:
        """Note that a mark has come back; those of what was cleared are unknown by now, and ignored."""
        if name not in self._marks:
            return
        while self._marks:
            first, mark = self._marks.popitem(last=False)
            self.played_s = mark.place_s
            if first == name:
                break
        self._moved.set()

    def clear(self) -> None:
        """Forget what has not been played: the line drops it."""
        self._marks.clear()
        self.played_s = self.sent_s
        self._moved.set()

    async def room(self) -> None:
        """Wait until more audio may be sent; raises Stalled."""
        await self._until_ahead_by_less_than(self._lead_s)

    async def finished(self) -> None:
        """Wait until everything up to the last mark has been played; raises Stalled."""
        while self._marks:
            await self._move()

    async def _until_ahead_by_less_than(self, seconds: float) -> None:
        while self.sent_s - self.played_s >= seconds:
            await self._move()

    async def _move(self) -> None:
        self._moved.clear()
        patience_s = self._stall_s
        if (oldest := next(iter(self._marks.values()), None)) is not None:
            patience_s = min(patience_s, oldest.sent_at + self._lead_s + self._stall_s - self._clock())
        try:
            async with asyncio.timeout(max(0.0, patience_s)):
                await self._moved.wait()
        except TimeoutError:
            raise Stalled from None
